"""Writes the shipped workflows from short descriptions, in both forms:

    python3 tests/workflows/authoring --server http://127.0.0.1:8188

needs a running ComfyUI with this pack. `pictures`, `videos`, `pipelines` and `tiny` describe, `graph` wires, `layout`
places, `ui_form` and `api_form` write.
"""
