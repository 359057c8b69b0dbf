"""What workflows/client.py tells of a workflow, without a server: its bar and the reports that are its own."""

from __future__ import annotations

import asyncio

from compact_parallel.workflows import client_command
from compact_parallel.workflows.client import Executing, Progress

WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {}}}


def last_lines(capsys, *values: tuple[int, int]) -> list[str]:
    """What the bar shows, in order, when the server tells of these steps."""
    bar = client_command._Bar(WORKFLOW, disable=False)
    bar.show(Executing("3"))
    for value, maximum in values:
        bar.show(Progress("3", value, maximum))
        bar._bar.refresh()
    bar.close()
    return [line for line in capsys.readouterr().err.replace("\n", "\r").split("\r") if line.strip()]


def test_the_bar_ends_where_the_node_does(capsys):
    assert "100%" in last_lines(capsys, (1, 3), (2, 3), (3, 3))[-1]


def test_a_node_that_goes_on_beyond_what_it_said_has_no_end(capsys):
    beyond = last_lines(capsys, (2, 3), (3, 3), (3, 3), (3, 3))[-1]
    assert "%" not in beyond and "3it" in beyond and "and more" in beyond


def test_a_node_that_counts_anew_has_its_new_end(capsys):
    anew = last_lines(capsys, (3, 3), (3, 3), (1, 4))[-1]
    assert "1/4" in anew and "and more" not in anew


class Server:
    """A server that ran another workflow while ours waited, and one right after it."""

    async def queue(self, workflow):
        return "ours"

    async def events(self, prompt_id):
        for event in (Executing("3"), Executing(None)):
            yield event

    async def get(self, path):
        return [{"run_id": name, "prompt_id": name} for name in ("after", "ours", "before")]

    async def history(self, prompt_id):
        return {"outputs": {}}


def test_only_its_own_runs_are_reported():
    bar = client_command._Bar(WORKFLOW, disable=True)
    reports, _ = asyncio.run(client_command._follow(Server(), WORKFLOW, bar))
    assert [report["run_id"] for report in reports] == ["ours"]
