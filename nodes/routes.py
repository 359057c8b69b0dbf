"""What the web panel and scripts can ask of the pools and the runs, on ComfyUI's own server."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from ..runtime.pool.errors import PoolError
from ..runtime.pool.pool import Pool
from ..runtime.pool.registry import pools
from ..runtime.report.history import runs

ACTIONS: dict[str, Callable[[Pool], None]] = {"start": Pool.start, "restart": Pool.restart, "stop": Pool.stop}


async def _list_pools(request: web.Request) -> web.Response:
    return web.json_response([pool.status() for pool in pools().all()])


async def _act(request: web.Request) -> web.Response:
    """Start, restart or stop a pool; answers with its status. The unnamed pool is called "default" here."""
    name = request.match_info["name"]
    pool = pools().find("" if name == "default" else name)
    if pool is None:
        return web.json_response(
            {"error": f"There is no pool called {name!r} yet; run a workflow with it."}, status=404
        )
    try:
        await asyncio.to_thread(ACTIONS[request.match_info["action"]], pool)
    except PoolError as error:
        return web.json_response({"error": str(error), **pool.status()}, status=500)
    return web.json_response(pool.status())


async def _latest_run(request: web.Request) -> web.Response:
    report = runs().latest()
    if report is None:
        return web.json_response({"error": "No parallel run since ComfyUI started."}, status=404)
    return web.json_response(report)


async def _list_runs(request: web.Request) -> web.Response:
    return web.json_response(runs().all())


def add_routes(routes: web.RouteTableDef) -> None:
    """Add the /parallel routes to ComfyUI's."""
    routes.get("/parallel/pools")(_list_pools)
    routes.post(f"/parallel/pools/{{name}}/{{action:{'|'.join(ACTIONS)}}}")(_act)
    routes.get("/parallel/runs/latest")(_latest_run)
    routes.get("/parallel/runs")(_list_runs)
