"""Finds the family of a model by the name of its file, because templates come without the files."""

from __future__ import annotations

from compact_parallel.runtime.sharding.plans import PLANS, ROW_PLANS

UNET = "UNet"
BY_FILE = (
    # Families that derive from another one come before it.
    ("pid_flux", "PiD"),
    ("longcat_image", "Flux"),
    ("ovis_image", "Flux"),
    ("flux1", "Flux"),
    ("flux.1", "Flux"),
    ("flux2", "Flux"),
    ("flux_2", "Flux"),
    ("chroma_radiance", "Chroma Radiance"),
    ("chroma1", "Chroma"),
    ("sd3", "SD3"),
    ("qwen_image_2.1", "Qwen-Image 2.1"),
    ("qwen_image", "Qwen-Image"),
    ("firered_image", "Qwen-Image"),
    ("mage_flow", "Mage-Flow"),
    ("z_image", "Lumina 2"),
    ("netayume", "Lumina 2"),
    ("newbie_image", "Lumina 2"),
    ("ming_image", "Lumina 2"),
    ("hidream_o1", "HiDream O1"),
    ("hidream", "HiDream"),
    ("anima_", "Cosmos Predict2"),
    ("cosmos_predict2", "Cosmos Predict2"),
    ("omnigen2", "OmniGen2"),
    ("boogu", "Boogu"),
    ("ernie_image", "ERNIE-Image"),
    ("ideogram4", "Ideogram 4"),
    ("joyai_image", "JoyImage"),
    ("kandinsky5", "Kandinsky 5"),
    ("kandinsky6", "Kandinsky 6"),
    ("krea2", "Krea 2"),
    ("lens_", "Lens"),
    ("pixeldit", "PixelDiT"),
    ("seedvr2", "SeedVR2"),
    ("sd_xl", UNET),
    ("v1_5_pruned", UNET),
    ("dreamshaper_8", UNET),
    ("lotus_depth", UNET),
    ("svd", UNET),
    ("vace", "Wan VACE"),
    ("wan2.2_animate", "Wan Animate"),
    ("wan_animate_2", "Wan-Animate 2"),
    ("_s2v", "Wan sound to video"),
    ("humo", "Wan HuMo"),
    ("dancer", "WanDancer"),
    ("causal_forcing", "Wan causal"),
    ("chrono_edit", "Wan"),
    ("wan2", "Wan"),
    ("capybara", "Hunyuan Video"),
    ("hunyuanvideo", "Hunyuan Video"),
    ("hunyuan_video", "Hunyuan Video"),
    ("ltx_2", "LTX-2"),
    ("ltx_video", "LTX-Video"),
    ("minimax_h3", "MiniMax H3"),
    ("fasth3", "MiniMax H3"),
    ("minimax_music3", "MiniMax Music 3"),
    ("void_pass", "CogVideoX"),
    ("hunyuan_3d_v2.1", "Hunyuan3D 2.1"),
    ("hunyuan3d", "Hunyuan3D 2"),
    ("triposplat", "TripoSplat"),
    ("trellis_2", "Trellis 2"),
    ("ace_step_v1_3.5b", "ACE-Step 1"),
    ("ace_step_1.5", "ACE-Step 1.5"),
    ("acestep_v1.5", "ACE-Step 1.5"),
    ("stable_audio", "Stable Audio"),
    ("yue2", "YuE 2"),
)
"""(part of the file's name, name of the family in its plan). Names are compared in lower case, "-" as "_"."""
WITHOUT_PLAN = {"MiniMax Music 3", "Trellis 2", "YuE 2"}
"""Families of newer ComfyUIs without a plan in this pack; remove a name when its plan is added."""
_ROWS = {plan.family for plan in ROW_PLANS}
_TOKENS = {plan.family for plan in PLANS}


def family_of(file: str) -> str | None:
    """The family of the model in this file; None if the table does not have it."""
    name = file.lower().replace("-", "_").replace(" ", "_")
    return next((family for part, family in BY_FILE if part in name), None)


def split(family: str) -> str:
    """The dimension that the family's plan splits: "tokens" or "rows"; "" without a plan."""
    return "tokens" if family in _TOKENS else "rows" if family in _ROWS else ""
