"""The /parallel HTTP routes on ComfyUI's server, through which the web panel and scripts access pools and runs."""

import asyncio
import io
from collections.abc import Callable

from aiohttp import web

from ..runtime.compression.codecs import COARSE_TO_EXACT
from ..runtime.config import ConfigError
from ..runtime.pool.errors import PoolError
from ..runtime.pool.pool import Pool
from ..runtime.pool.registry import pools
from ..runtime.report.history import runs
from ..runtime.report.plot import draw
from ..runtime.report.wording import result_line
from .about import issue
from .live import pool_view, pool_views
from .locales import words_of
from .settings import set_idle_minutes

ACTIONS: dict[str, Callable[[Pool, Callable[[], None]], None]] = {
    "start": Pool.start,
    "restart": Pool.restart,
    "stop": lambda pool, _check_interrupt: pool.stop(),
}


async def _list_pools(request: web.Request) -> web.Response:
    return web.json_response(pool_views())


async def _act(request: web.Request) -> web.Response:
    """Starts, restarts or stops a pool; answers with its status. The unnamed pool is called "default" here."""
    name = request.match_info["name"]
    pool = pools().find("" if name == "default" else name)
    if pool is None:
        return web.json_response(
            {"error": f"There is no pool called {name!r} yet; run a workflow with it."}, status=404
        )
    loop = asyncio.get_running_loop()

    def check_interrupt() -> None:
        if not loop.is_running():  # Python waits for this thread before it ends
            raise PoolError("ComfyUI ended while the workers started.")

    try:
        await asyncio.to_thread(ACTIONS[request.match_info["action"]], pool, check_interrupt)
    except PoolError as error:
        return web.json_response({**pool_view(pool), "error": str(error)}, status=500)
    return web.json_response(pool_view(pool))


async def _latest_run(request: web.Request) -> web.Response:
    report = runs().latest()
    if report is None:
        return web.json_response({"error": "No parallel run since ComfyUI started."}, status=404)
    return web.json_response(report)


async def _list_runs(request: web.Request) -> web.Response:
    """The reports of the last runs, newest first, each with a one-line result in the requested language."""
    words = words_of(request.query.get("language", "en"))
    return web.json_response([{**report, "result": result_line(report, words)} for report in runs().all()])


async def _plot(request: web.Request) -> web.Response:
    """The plot of a run as PNG."""
    run_id = request.match_info["run_id"]
    report = runs().find(run_id)
    if report is None:
        return web.json_response({"error": f"There is no run {run_id!r}; ComfyUI keeps the last ones."}, status=404)

    def to_png() -> bytes:
        png = io.BytesIO()
        draw(report, COARSE_TO_EXACT).savefig(png, format="png")
        return png.getvalue()

    return web.Response(body=await asyncio.to_thread(to_png), content_type="image/png")


async def _issue(request: web.Request) -> web.Response:
    """The newest report with versions and devices, as {"text"} to be put into an issue."""
    return web.json_response({"text": await asyncio.to_thread(issue)})


async def _settings(request: web.Request) -> web.Response:
    """GET answers {"idle_minutes"} of the pools; POST sets it, at once for every pool."""
    if request.method == "POST":
        asked = await request.json()
        try:
            set_idle_minutes(asked.get("idle_minutes") if isinstance(asked, dict) else None)
        except ConfigError as error:
            return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"idle_minutes": pools().idle_seconds / 60})


def add_routes(routes: web.RouteTableDef) -> None:
    """Adds the /parallel routes to ComfyUI's."""
    routes.get("/parallel/pools")(_list_pools)
    routes.post(f"/parallel/pools/{{name}}/{{action:{'|'.join(ACTIONS)}}}")(_act)
    routes.get("/parallel/runs/latest")(_latest_run)
    routes.get("/parallel/runs/{run_id}/plot")(_plot)
    routes.get("/parallel/runs")(_list_runs)
    routes.get("/parallel/issue")(_issue)
    routes.get("/parallel/settings")(_settings)
    routes.post("/parallel/settings")(_settings)
