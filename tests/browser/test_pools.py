"""Several pools in the tab "Parallel"."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.server
CARDS = "[...document.querySelectorAll('.parallel-pool')].map((card) => [card.dataset.pool, card.dataset.run !== ''])"
BADGES = (
    "Object.fromEntries([...document.querySelectorAll('.parallel-pool')]"
    ".map((card) => [card.dataset.pool, card.querySelector('.parallel-badge').textContent]))"
)


def test_each_pool_has_its_card_and_its_buttons(front):
    front.show_panel()
    small = {"KSampler__steps": 2, "Empty_Latent__width": 64, "Empty_Latent__height": 64}
    for name in ("", "second", "a third one with quite a long name, to see that nothing is cut off"):
        front.queue(Parallel_Worker_Pool__name=name, **small)
        front.browser.wait(f"{CARDS}.some(([name, ran]) => name === {name!r} && ran)")
    names = [name for name, _ in front.browser.evaluate(CARDS)]
    assert len(names) == 3
    front.browser.click("[data-pool='second'] button:text-is('Stop')")
    front.browser.click("[role=dialog] button:text-is('Confirm')")
    front.browser.wait(f"{BADGES}.second === 'stopped'")
    others = [state for name, state in front.browser.evaluate(BADGES).items() if name != "second"]
    assert others == ["idle", "idle"]
    for name in ("light", "dark"):
        front.browser.evaluate("window.app.extensionManager.setting.set('Comfy.ColorPalette', given)", name)
        front.screenshot(f"several_pools_{name}")
    front.browser.click("[data-pool='second'] button:text-is('Start')")
    front.browser.wait(f"{BADGES}.second === 'idle'")
    wide = front.browser.evaluate(
        "[...document.querySelectorAll('.parallel-panel *')].filter((element) =>"
        " element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== 'visible').length"
    )
    assert wide == 0
