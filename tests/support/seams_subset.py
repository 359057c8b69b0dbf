"""The tests of `-m seams`, which check within two minutes whether a ComfyUI fits.

They are the table of seams, and a tiny run for each capability.
"""

_EXACT, _CONTROL, _TABLE = "job/test_exact.py::test_", "job/test_control.py::test_", "comfyui/test_seams.py::test_"
_SHARED = "the_workers_share_a_controlnet_or_the_report_says_that_each_runs_it_whole"
SUBSET = (
    f"{_TABLE}the_installed_comfyui_has_every_seam",
    f"{_TABLE}looking_takes_no_time",
    f"{_EXACT}every_arrangement_gives_the_stock_result[all_gather 2-flux]",
    f"{_EXACT}every_arrangement_gives_the_stock_result[ulysses 2-flux]",
    f"{_EXACT}every_arrangement_gives_the_stock_result[cfg 2-flux]",
    f"{_EXACT}every_way_to_sample_gives_the_stock_result[flux-dpmpp_2m_sde-cfg 2]",
    "job/test_rows.py::test_auto_splits_rows_where_one_condition_is_evaluated[2]",
    f"{_CONTROL}a_controlnet_steers_flux_as_in_stock[one-all_gather 2]",
    f"{_CONTROL}{_SHARED}[unet_controlnet]",
    "job/test_easycache.py::test_easy_cache_skips_the_same_steps[cfg-before]",
    "job/test_step_reuse.py::test_a_run_is_near_the_serial_one_and_each_round_has_its_calls[step 2]",
    "job/test_data.py::test_every_arrangement_gives_the_stock_result[flux-4-data 2]",
    "real_server/test_server.py::test_the_parent_loads_no_model_and_the_result_is_stocks",
)
