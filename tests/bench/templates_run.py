"""Runs official ComfyUI templates with and without Parallel Model:  python3 tests/bench/templates_run.py [--only WORD]

Runs at least one template of every family that can be made small, under the file names that it asks for, on a real
ComfyUI server, with tiny random weights (templates_tiny/models.py), small sizes and four steps
(templates_tiny/prompts.py). Compares the latents of every sampler with two workers and mode "auto", without Parallel
Model, and, as a control that the measure shows a change, with another text. Families marked * have only one size in
ComfyUI, and get another one from the custom node pack templates_tiny/tiny_weights, which also replaces text encoders
and CLIP vision. Loaders of models and VAEs, LoRAs, patches, ControlNets, guiders, samplers and savers are ComfyUI's.
Has the requirements of templates.py; takes some minutes. Ends with 1 if a template fails, its latents differ, or it was
not divided as templates.py says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from templates_parts import command

TEMPLATES = (
    "default",
    "sdxlturbo_example",
    "txt_to_image_to_video",
    "flux_dev_full_text_to_image",
    "flux_schnell",
    "flux_fill_inpaint_example",
    "flux_canny_model_example",
    "image_flux2_text_to_image_9b",
    "image_chroma_text_to_image",
    "image_chroma1_radiance_text_to_image",
    "sd3.5_simple_example",
    "sd3.5_large_canny_controlnet_example",
    "template_qwen_image_illustration_lora",
    "image_qwen_image_2512_with_2steps_lora",
    "image_z_image_turbo",
    "image_netayume_lumina_t2i",
    "hidream_i1_fast",
    "hidream_e1_full",
    "image_omnigen2_t2i",
    "image_omnigen2_image_edit",
    "image_boogu_image_0_1_turbo_t2i",
    "image_anima_preview",
    "image_kandinsky5_t2i",
    "image_lens_turbo_t2i",
    "image_krea2_turbo_t2i",
    "image_ernie_image_turbo",
    "image_joyai_image_edit",
    "image_pixeldit_t2i",
    "image_mage_flow_t2i_int8",
    "text_to_video_wan",
    "image_to_video_wan",
    "video_wan2_2_14B_i2v",
    "video_wan2_2_5B_ti2v",
    "video_wan_vace_14B_t2v",
    "video_causal_forcing_i2v",
    "ltxv_text_to_video",
    "ltxv_image_to_video",
    "hunyuan_video_text_to_video",
    "video_hunyuan_video_1.5_720p_t2v",
    "video_kandinsky5_t2v",
    "audio_ace_step_1_t2a_instrumentals",
    "audio_ace_step_1_5_checkpoint",
    "audio_stable_audio_example",
    "3d_hunyuan3d_image_to_model",
    "3d_hunyuan3d-v2.1",
)


def options() -> argparse.Namespace:
    """The command line."""
    return command.parser(__doc__).parse_args()


def main() -> int:
    """Runs the templates. Returns 1 if one is not equal to stock, or not divided as predicted."""
    chosen = options()
    command.begin(__file__)
    from templates_parts import front_end, reading
    from templates_parts.placing import placed
    from templates_parts.verdicts import verdict
    from templates_tiny import running, tables

    release = reading.installed()
    templates = {one.name: one for one in release.templates()}
    wanted = [name for name in TEMPLATES if any(word in name for word in chosen.only)]
    with front_end.opened() as opened:
        prompts = {name: opened.prompt(placed(templates[name].graph)) for name in wanted}
        verdicts = {name: verdict(templates[name], prompts[name], opened.object_info) for name in wanted}
    rows = []
    with tempfile.TemporaryDirectory() as folder, running.running(Path(folder)) as runner:
        for name in wanted:
            print(f"{len(rows) + 1} of {len(wanted)} {name}", file=sys.stderr, flush=True)
            rows.append(tables.Row(verdicts[name], *tables.run_or_error(runner, prompts[name])))
    print(f"{reading.PACKAGE} {release.version}, two workers on the CPU, mode auto\n")
    print(tables.text(rows))
    return int(not all(row.is_right for row in rows))


if __name__ == "__main__":
    sys.exit(main())
