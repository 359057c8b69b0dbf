"""The table of seams: every internal of ComfyUI that this pack uses. Add the next one here (memory:
seams_of_memory.py).

Newer versions of ComfyUI may change any of them without notice. `fits.py` compares the table with the installed
ComfyUI: when the pack loads, when a worker starts, and in the tests, which also check that nothing is left out here.
Where a seam no longer fits, the capabilities that depend on it are switched off, and a sentence says so.

Two things are not in the table: ComfyUI's public API for nodes (comfy_api), and what the pack knows only by name:
classes of models (sharding/plans), samplers (parallel/step/samplers.py) and guiders (describe/conditions_per_call.py).
If one of those is renamed, it counts as unknown; a plan itself checks the modules that it splits. What shows only in a
run is checked there, by the guards that the comments of the table name.
"""

from __future__ import annotations

from ..planner.capabilities import CFG, CONTROL, DATA, EASYCACHE, ROWS, STEP, TOKENS
from .seam import EARLY, EVERYTHING, NODES, PANEL, Seam
from .seams_of_memory import MEMORY

SEAMS = (
    # How ComfyUI starts, and how its sampling is wrapped.
    Seam("comfy.options", "args_parsing", (EVERYTHING,), "It is true in a process that has read the command line."),
    Seam("comfy.options", "enable_args_parsing", (EVERYTHING,), "ComfyUI, imported later, reads sys.argv.", ""),
    Seam("comfy.cli_args", "args", (EVERYTHING,), "It holds the options by name; None where nobody gave one."),
    Seam(
        "comfy.patcher_extension",
        "WrappersMP.OUTER_SAMPLE WrappersMP.SAMPLER_SAMPLE WrappersMP.PREDICT_NOISE WrappersMP.CALC_COND_BATCH "
        "WrappersMP.APPLY_MODEL WrappersMP.DIFFUSION_MODEL",
        (EVERYTHING,),
        "Wrappers of these kinds in transformer_options are called around what bears their name, with its arguments.",
    ),
    Seam(
        "comfy.patcher_extension",
        "WrapperExecutor.original WrapperExecutor.class_obj WrapperExecutor.wrappers WrapperExecutor.idx",
        (EVERYTHING,),
        "What a wrapper is given first: the function, the object whose method it is, all wrappers, the own place.",
    ),
    Seam(
        "comfy.patcher_extension",
        "WrapperExecutor.new_class_executor",
        (EVERYTHING,),
        "Its execute() calls the wrappers from the first to the last, then the original.",
        "original, class_obj, wrappers",
    ),
    Seam("comfy.patcher_extension", "WrapperExecutor.execute", (EVERYTHING,), "It begins the calls."),
    # What is sampled.
    Seam(
        "comfy.samplers",
        "CFGGuider.outer_sample",
        (EVERYTHING,),
        "It loads the model and samples; the pool does so in its place, and its workers call it.",
        "noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, *, latent_shapes",
        replaced=True,
    ),
    Seam(
        "comfy.samplers",
        "CFGGuider.predict_noise",
        (EVERYTHING,),
        "Every evaluation of the model by a sampler goes through it; ranks compare notes around it.",
        "x, timestep",
    ),
    Seam(
        "comfy.samplers",
        "CFGGuider.conds CFGGuider.original_conds CFGGuider.cfg CFGGuider.model_options CFGGuider.model_patcher "
        "CFGGuider.inner_model CFGGuider.loaded_models",
        (EVERYTHING,),
        "They are all a guider holds; conds are lists of dicts by name, model_options a copy for one run.",
    ),
    Seam("comfy.samplers", "KSAMPLER", (EVERYTHING,), "It is the class of ComfyUI's own SAMPLERs."),
    Seam(
        "comfy.sampler_helpers",
        "get_additional_models",
        (EVERYTHING,),
        "It gives the models that conditions bring, such as ControlNets.",
        "conds, dtype",
    ),
    # Models, and how they are sent to workers.
    Seam("comfy.model_base", "BaseModel.diffusion_model", (EVERYTHING,), "It is the module that is evaluated."),
    Seam("comfy.model_base", "BaseModel.get_dtype_inference", (EVERYTHING,), "The dtype it computes in.", ""),
    Seam(
        "comfy.model_base",
        "BaseModel.load_model_weights",
        (EVERYTHING,),
        "It calls load_state_dict of diffusion_model, which in workers takes mapped tensors over.",
        "sd",
    ),
    Seam("comfy.model_base", "SVD_img2vid", (EVERYTHING,), "Its batch is the frames of one video."),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher",
        (EVERYTHING,),
        "All but a few of its attributes (shipping/patcher.py) are what workflows put on a model, and can be pickled.",
        "model, load_device, offload_device, *, size",
    ),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.backup ModelPatcher.cached_patcher_init ModelPatcher.clone_base_uuid ModelPatcher.injections "
        "ModelPatcher.load_device ModelPatcher.model ModelPatcher.model_options ModelPatcher.object_patches "
        "ModelPatcher.object_patches_backup ModelPatcher.offload_device ModelPatcher.wrappers ModelPatcher.hook_backup "
        "ModelPatcher.parent ModelPatcher.patches ModelPatcher.patches_uuid ModelPatcher.weight_wrapper_patches "
        "ModelPatcher.force_cast_weights",
        (EVERYTHING,),
        "Of them cached_patcher_init is (the loader, its arguments), by which a worker makes the model again.",
    ),
    Seam("comfy.model_patcher", "ModelPatcher.clone", (EVERYTHING,), "Clones share the module, not the patches.", ""),
    Seam("comfy.model_patcher", "ModelPatcher.is_dynamic", (EVERYTHING,), "Whether aimdo loads its weights.", ""),
    Seam("comfy.model_patcher", "ModelPatcher.model_dtype", (EVERYTHING,), "The dtype of its weights.", ""),
    Seam("comfy.model_patcher", "ModelPatcher.eject_model", (EVERYTHING,), "It takes injections off the model.", ""),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.unpatch_model",
        (EVERYTHING,),
        "It takes patches off, and moves the weights to this device by their method `to`.",
        "device_to, unpatch_weights",
        replaced=True,
    ),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.get_additional_models_with_key",
        (EVERYTHING,),
        'Under "multigpu" are the copies that MultiGPU CFG Split made.',
        "key",
    ),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.add_wrapper_with_key",
        (EVERYTHING,),
        "It adds a wrapper to the model.",
        "wrapper_type, key, wrapper",
    ),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.remove_wrappers_with_key",
        (EVERYTHING,),
        "It removes those of this key.",
        "wrapper_type, key",
    ),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.get_free_memory",
        (EVERYTHING,),
        "Only by what it says ComfyUI decides how many conditions are one batch; all ranks are told the same.",
        "device",
        replaced=True,
    ),
    Seam("comfy.supported_models_base", "BASE", (EVERYTHING,), "It is the class of all model configs."),
    Seam("comfy.utils", "get_attr", (EVERYTHING,), "It follows a dotted path.", "obj, attr"),
    Seam("comfy.hooks", "EnumHookType.Injections", (EVERYTHING,), "It is the type of hooks that inject into a model."),
    Seam("comfy.hooks", "HookKeyframeGroup", (EVERYTHING,), "ComfyUI resets its state before every run."),
    Seam(
        "comfy_api.internal",
        "lock_class",
        (EVERYTHING,),
        "It makes the copy of a node's class that the server runs, whose class it calls LockedMeta.",
        "cls",
    ),
    # Devices and memory.
    *MEMORY,
    # Cancelling.
    Seam("comfy.model_management", "InterruptProcessingException", (EVERYTHING,), "A cancelled run raises it."),
    Seam("comfy.model_management", "processing_interrupted", (EVERYTHING,), "Whether somebody cancelled.", ""),
    Seam(
        "comfy.model_management",
        "throw_exception_if_processing_interrupted",
        (EVERYTHING,),
        "It raises that exception if somebody cancelled.",
        "",
    ),
    # Sequence parallelism, of tokens and of rows. Whether hooks on blocks fire, and how often blocks attend, shows only
    # in a run: sharding/token_sharding.py and rows/row_sharding.py refuse a forward in which either is not as expected.
    Seam(
        "comfy.model_base",
        "BaseModel.apply_model BaseModel._apply_model",
        (TOKENS, ROWS, DATA),
        "One evaluation of all conditions together; a batch entry is a row of x, t and all that has as many rows.",
        "x, t, c_concat, c_crossattn, control, transformer_options",
    ),
    Seam(
        "comfy.ldm.modules.attention",
        "optimized_attention",
        (TOKENS, ROWS, CONTROL),
        "It calls optimized_attention_override of transformer_options, where there is one, with itself and its "
        "arguments.",
    ),
    Seam(
        "comfy.ldm.modules.attention",
        "attention_pytorch",
        (TOKENS, ROWS, CONTROL),
        "Every attention function that may be optimized_attention is given these, up to heads by place.",
        "q, k, v, heads, mask, attn_precision, skip_reshape, skip_output_reshape",
    ),
    Seam(
        "comfy.ldm.modules.diffusionmodules.openaimodel",
        "UNetModel UNetModel.input_blocks UNetModel.middle_block UNetModel.output_blocks UNetModel.out "
        "TimestepEmbedSequential ResBlock Downsample Upsample",
        (ROWS,),
        "A UNet is made of blocks of these classes, and each of them of torch's convolutions and group norms.",
    ),
    Seam(
        "comfy.ldm.modules.attention",
        "SpatialTransformer BasicTransformerBlock CrossAttention",
        (ROWS,),
        "A UNet attends in blocks of these classes.",
    ),
    # ControlNets under sequence parallelism. Without it every worker runs them whole.
    Seam(
        "comfy.controlnet",
        "ControlNet.get_control",
        (CONTROL,),
        "It runs control_model, once for a model call, and first get_control of previous_controlnet.",
        "x_noisy, t, cond, batched_number, transformer_options",
        replaced=True,
    ),
    Seam(
        "comfy.controlnet",
        "ControlNet.control_model ControlNet.previous_controlnet ControlNet.global_average_pooling",
        (CONTROL,),
        "The module, what is before it in the chain, and whether residuals become their mean.",
    ),
    Seam(
        "comfy.ldm.modules.diffusionmodules.mmdit",
        "optimized_attention",
        (CONTROL,),
        "Blocks of ControlNets for SD3 attend by this name, without transformer_options.",
    ),
    Seam("comfy.ldm.flux.math", "optimized_attention", (CONTROL,), "So do those for Flux."),
    Seam("comfy.ldm.qwen_image.model", "optimized_attention_masked", (CONTROL,), "So do those for Qwen-Image."),
    # CFG parallelism.
    Seam(
        "comfy.samplers",
        "calc_cond_batch",
        (CFG,),
        "It evaluates the conditions, one list of dicts for each prediction; None or empty ones are not evaluated.",
        "model, conds, x_in, timestep, model_options",
        replaced=True,
    ),
    Seam(
        "comfy.samplers",
        "get_area_and_mult",
        (CFG,),
        "It gives what of a condition takes part at this noise level, with its uuid and hooks, or None.",
        "conds, x_in, timestep_in",
    ),
    Seam("comfy.model_base", "BaseModel.current_patcher", (CFG,), "The patcher of the run that the model is in."),
    Seam(
        "comfy.model_patcher",
        "ModelPatcher.prepare_hook_patches_current_keyframe",
        (CFG,),
        "It tells the keyframes of hooks that a call was made.",
        "t, hook_group, model_options",
    ),
    Seam(
        "comfy.samplers",
        "can_concat_cond",
        (EASYCACHE,),
        "Whether ComfyUI evaluates two conditions as one batch.",
        "c1, c2",
    ),
    # Step Reuse.
    Seam(
        "comfy.samplers",
        "KSAMPLER.sampler_function KSAMPLER.extra_options",
        (STEP,),
        "The function is called with (model, x, sigmas, extra_args, callback, disable) and these options.",
    ),
    Seam("comfy.model_base", "BaseModel.model_sampling", (STEP,), "It says of which kind the diffusion is."),
    Seam("comfy.model_sampling", "CONST", (STEP,), "It is a base of model_sampling of flow models."),
    Seam(
        "comfy.k_diffusion.sampling",
        "BrownianTreeNoiseSampler",
        (STEP,),
        "SDE samplers make their noise with it, which is the same for the same seed and noise levels.",
        "x, sigma_min, sigma_max, seed",
    ),
    Seam("comfy.hooks", "HookKeyframeGroup.clone", (STEP,), "It gives one that has seen no call.", ""),
    Seam(
        "comfy.hooks",
        "HookKeyframeGroup.prepare_current_keyframe",
        (STEP,),
        "It goes to the keyframe of this noise level.",
        "curr_t, transformer_options",
    ),
    Seam(
        "comfy.hooks",
        "HookKeyframeGroup.keyframes HookKeyframeGroup.strength",
        (STEP,),
        "All keyframes, and the strength at the present one.",
    ),
    Seam("comfy.model_patcher", "ModelPatcher.clear_cached_hook_weights", (STEP,), "It forgets such weights.", ""),
    # The nodes, and what they show.
    Seam("comfy.model_management", "cpu_mode", (NODES,), "Whether ComfyUI was told to use the CPU.", ""),
    Seam(
        "comfy_execution.utils",
        "get_executing_context",
        (NODES,),
        "It gives prompt_id, node_id and list_index of the node that this thread validates or executes, or None.",
        "",
    ),
    Seam("comfy_execution.progress", "get_progress_state", (NODES,), "Its dynprompt is the running workflow.", ""),
    Seam("comfy_execution.graph", "DynamicPrompt.has_node", (NODES,), "Whether there is this node.", "node_id"),
    Seam("comfy_execution.graph", "DynamicPrompt.get_node", (NODES,), "Its class_type and inputs.", "node_id"),
    Seam(
        "comfy_execution.graph",
        "DynamicPrompt.get_real_node_id DynamicPrompt.get_display_node_id",
        (NODES,),
        "The node of the workflow that was expanded into this one.",
        "node_id",
    ),
    Seam("comfy_execution.graph_utils", "ExecutionBlocker", (NODES,), "Who needs such an output, waits.", "message"),
    Seam("comfy_execution.graph_utils", "is_link", (NODES,), "Whether an input is [node, output].", "obj"),
    Seam(
        "folder_paths",
        "add_model_folder_path",
        (NODES,),
        "Loaders then find models in this folder, too.",
        "folder_name, full_folder_path",
    ),
    Seam("folder_paths", "get_folder_paths", (NODES,), "Where models of a kind are.", "folder_name"),
    Seam("folder_paths", "get_public_user_directory", (NODES,), "Where comfy.settings.json is.", "user_id"),
    Seam(
        "nodes",
        "NODE_CLASS_MAPPINGS NODE_DISPLAY_NAME_MAPPINGS",
        (NODES,),
        "Every node's class, with its RETURN_TYPES, and name, by its type.",
    ),
    Seam("comfy.utils", "ProgressBar", (NODES,), "Its update_absolute shows a step and its preview.", "total"),
    Seam(
        "latent_preview",
        "get_previewer",
        (NODES,),
        "It gives the previewer for a format of latents (a class of comfy.latent_formats), or None.",
        "device, latent_format",
    ),
    Seam("server", "PromptServer.instance", (NODES,), "Its instance is the running server."),
    Seam(
        "server",
        "PromptServer.client_id PromptServer.loop PromptServer.routes",
        (PANEL,),
        "The browser whose workflow runs, the event loop, and aiohttp's routes.",
    ),
    Seam(
        "server",
        "PromptServer.send_sync",
        (PANEL,),
        "It sends an event to all browsers, from any thread.",
        "event, data",
    ),
    Seam(
        "server",
        "PromptServer.send_progress_text",
        (PANEL,),
        "It shows a text on a node, to one browser.",
        "text, node_id, sid",
    ),
    Seam("server", "PromptServer.app", (EARLY,), "It is aiohttp's application; its middlewares see every request."),
    Seam(
        "server",
        "PromptServer.add_on_prompt_handler",
        (EARLY,),
        "The handler is given each request before its workflow is validated, in the same task.",
        "handler",
    ),
)
