"""The model files that the workflows name: in which folder of models/ each belongs, and where its makers publish it."""

from __future__ import annotations

from dataclasses import dataclass

_HUB = "https://huggingface.co"


@dataclass(frozen=True)
class File:
    """A file in models/`folder`, published at `url`."""

    folder: str
    url: str

    def model(self, name: str) -> dict[str, str]:
        """How a workflow tells ComfyUI's browser about it."""
        return {"name": name, "url": self.url, "directory": self.folder}


_COMFY, _TEXT = "Comfy-Org", "comfyanonymous/flux_text_encoders"
_QWEN, _FLUX2 = f"{_COMFY}/Qwen-Image_ComfyUI", f"{_COMFY}/flux2-dev"
_WAN21, _WAN22 = f"{_COMFY}/Wan_2.1_ComfyUI_repackaged", f"{_COMFY}/Wan_2.2_ComfyUI_Repackaged"
_HUNYUAN = f"{_COMFY}/HunyuanVideo_repackaged"
_SPLIT = "split_files/"
"""Where repositories of ComfyUI's makers keep the folders of models/."""

_PUBLISHED = {
    ("diffusion_models", f"{_COMFY}/flux1-dev", ""): ["flux1-dev"],
    ("text_encoders", _TEXT, ""): ["clip_l", "t5xxl_fp16"],
    ("vae", f"{_COMFY}/Lumina_Image_2.0_Repackaged", _SPLIT): ["ae"],
    ("diffusion_models", _FLUX2, _SPLIT): ["flux2_dev_fp8mixed"],
    ("text_encoders", _FLUX2, _SPLIT): ["mistral_3_small_flux2_fp8"],
    ("vae", _FLUX2, _SPLIT): ["flux2-vae"],
    ("diffusion_models", _QWEN, _SPLIT): ["qwen_image_fp8_e4m3fn"],
    ("text_encoders", _QWEN, _SPLIT): ["qwen_2.5_vl_7b_fp8_scaled"],
    ("vae", _QWEN, _SPLIT): ["qwen_image_vae"],
    ("checkpoints", f"{_COMFY}/stable-diffusion-3.5-fp8", ""): ["sd3.5_large_fp8_scaled"],
    ("checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", ""): ["sd_xl_base_1.0"],
    ("checkpoints", "stabilityai/stable-video-diffusion-img2vid-xt", ""): ["svd_xt"],
    ("diffusion_models", _WAN22, _SPLIT): [
        f"wan2.2_{kind}_{noise}_noise_14B_fp8_scaled" for kind in ("t2v", "i2v") for noise in ("high", "low")
    ],
    ("text_encoders", _WAN21, _SPLIT): ["umt5_xxl_fp8_e4m3fn_scaled"],
    ("vae", _WAN22, _SPLIT): ["wan_2.1_vae"],
    ("checkpoints", "Lightricks/LTX-Video", ""): ["ltx-video-2b-v0.9"],
    ("diffusion_models", _HUNYUAN, _SPLIT): ["hunyuan_video_t2v_720p_bf16"],
    ("text_encoders", _HUNYUAN, _SPLIT): ["llava_llama3_fp8_scaled"],
    ("vae", _HUNYUAN, _SPLIT): ["hunyuan_video_vae_bf16"],
}
"""Names of .safetensors files by the folder they belong to, the repository that has them, and where in it."""

FILES = {
    f"{name}.safetensors": File(
        folder, f"{_HUB}/{repository}/resolve/main/{f'{where}{folder}/' if where else ''}{name}.safetensors"
    )
    for (folder, repository, where), names in _PUBLISHED.items()
    for name in names
}


FOLDERS = {
    repository.partition("/")[2]: File("diffusers", f"{_HUB}/{repository}")
    for repository in (
        "cvssp/audioldm2-large",
        "maxin-cn/Latte-1",
        "zai-org/CogVideoX-2b",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "black-forest-labs/FLUX.1-dev",
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    )
}
"""Folders of diffusers by their names."""


def file_list(names: list[str]) -> str:
    """A Markdown list of files or folders, each as a link, with the folder it goes to."""
    found = FILES | FOLDERS
    return "\n".join(f"- [{name}]({found[name].url}) → `models/{found[name].folder}/`" for name in names)
