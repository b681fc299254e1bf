"""The dashboard in a real browser: every part is driven and seen, nothing fails in its console, nothing is fetched from
elsewhere. Screenshots go to the folder that LUTHIER_SCREENSHOTS names, else to pytest's own."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browsing import Seen, launched, looking, needs_browser, number, served, waited
from conftest import bowl
from test_dashboard import keep
from test_view import LOGS

import luthier as lt
from luthier.core.trial import Status
from luthier.store import SqlStore, locate

pytestmark = needs_browser


@pytest.fixture(scope="module")
def url(tmp_path_factory, request) -> Iterator[str]:
    """The playbook's study, a population, and one that runs as long as the tests do."""
    folder = tmp_path_factory.mktemp("studies")
    keep(folder / "playbook.db", LOGS["playbook"])
    space = {"learning_rate": lt.Float(1e-5, 1e-1, log=True), "depth": lt.Int(1, 4)}
    study = lt.AskTell(
        space, minimize="val_loss", max_epochs=9, budget="8 trials", strategy="pbt", storage=folder / "pbt.db"
    )
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, val_loss=bowl(job.config, epoch))

    def train(trial: lt.Trial) -> None:
        import time

        for epoch in trial.epochs():
            print(f"epoch {epoch} of trial {trial.id}")
            time.sleep(0.2)
            trial.report(train_loss=1 / epoch, val_loss=trial.config["x"] + 2 / epoch)

    over = threading.Event()

    class Ends:
        def update(self, history: Any, events: Any) -> None:
            if over.is_set():
                raise KeyboardInterrupt

    def drive() -> None:
        try:
            live = {"x": lt.Float(0.0, 1.0), "kind": lt.Choice("a", "b")}
            lt.tune(
                train, live, minimize="val_loss", max_epochs=2000, strategy="random", storage=folder / "live.db",
                name="live", observers=[Ends()], quiet=True,
            )  # fmt: skip
        except KeyboardInterrupt:
            pass

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    log = SqlStore(locate(folder / "live.db"), "live")
    waited(lambda: len(list(log.read())) > 4)
    log.close()
    with served([folder / f"{n}.db" for n in ("playbook", "pbt", "live")]) as address:
        yield address
        over.set()
    driver.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture
def seen(browser, url, tmp_path) -> Iterator[Callable[..., Seen]]:
    with looking(browser, url, tmp_path) as make:
        yield make


def stop_first(page: Any) -> str:
    """Press the first stop button twice, as it forgets the first press soon; what it said in between."""
    button = page.locator(".running .stop button").first
    return button.evaluate("el => { el.click(); const said = el.textContent; el.click(); return said; }")


def figure(page: Any, name: str) -> int:
    """Scroll to a group of figures; how many it drew."""
    box = page.locator(f"[data-figures={name}]")
    box.evaluate("el => el.scrollIntoView({ block: 'center' })")
    waited(lambda: (box.get_attribute("data-drawn") or "") != "" and box.get_attribute("data-error") is None)
    return box.locator("figure:has(.main-svg)").count()


def test_a_playbook_study_is_shown_whole(seen):
    one = seen()
    page = one.open("0")
    page.wait_for_selector(".stages li")
    states = [li.get_attribute("class") for li in page.locator(".stages li").all()]
    assert "closed" in states[0]
    page.click(".stages li:nth-child(3) button")
    assert page.locator(".stage-said h3").inner_text() == "learning rate"
    assert page.locator(".stage-said .chips li").count() >= 1
    assert "Tuned configuration reaches" in page.locator("h1").inner_text()
    waited(lambda: number(page, ".panel canvas", "points") > 100)
    assert page.locator(".panel h3").all_inner_texts() == ["train_accuracy", "val_accuracy"]
    one.shoot("study")
    for name in ("progress", "time", "parallel", "sweeps", "lr_range", "paired", "findings"):
        assert figure(page, name) >= (name != "findings"), name
    one.shoot("figures")
    figure(page, "importance"), figure(page, "interaction")
    assert page.locator("[data-figures=sweeps] .main-svg path.js-fill").count() >= 1  # the prior
    page.locator("#checklist").scroll_into_view_if_needed()
    assert page.locator(".check tr.settled").count() >= 1


def test_curves_are_hovered_zoomed_logged_and_hidden(seen):
    one = seen()
    page = one.open("0")
    waited(lambda: number(page, ".panel canvas", "points") > 100)
    canvas = page.locator(".panel canvas").nth(1)
    canvas.scroll_into_view_if_needed()
    picture = lambda: canvas.evaluate("el => el.toDataURL()")  # noqa: E731

    canvas.focus()
    page.keyboard.press("ArrowRight")
    tip = page.locator(".panel .tip").nth(1)
    waited(tip.is_visible)
    assert "epoch 2" in tip.inner_text()
    one.shoot("hover")
    page.keyboard.press("Tab")
    waited(lambda: not tip.is_visible())

    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    first = picture()
    page.mouse.move(box["x"] + 150, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 350, box["y"] + 200, steps=4)
    page.mouse.up()
    zoomed = waited(lambda: (now := picture()) != first and now)
    page.click("[data-tool=reset]")
    waited(lambda: picture() != zoomed)
    for tool in ("logx", "logy", "hide"):
        before = picture()
        page.click(f"[data-tool={tool}]")
        assert page.locator(f"[data-tool={tool}]").get_attribute("aria-pressed") == "true"
        waited(lambda before=before: picture() != before)
    page.click("[data-pair='1']")
    waited(lambda: page.locator(".panel h3").all_inner_texts() == ["train_loss", "val_loss"])

    page.locator(".panel canvas").nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".findings, .log, .title")
    assert "/trial/" in page.url


def test_trials_are_sorted_found_opened_and_compared(seen):
    one = seen()
    page = one.open("0")
    page.wait_for_selector(".trials tbody tr")
    page.click("[data-sort=loss]")
    best = page.locator(".trials tbody tr").first
    assert "winner" in best.get_attribute("class")
    page.fill("input[type=search]", "optimizer=sgd")
    waited(lambda: all("optimizer=sgd" in x for x in page.locator(".trials .config").all_inner_texts()))
    page.fill("input[type=search]", "")
    page.click("[data-show=failed]")
    waited(lambda: page.locator(".trials .bad").count() >= 1)
    page.click("[data-show=all]")
    page.locator("[data-tick]").nth(0).check()
    page.locator("[data-tick]").nth(1).check()
    page.click("#compare")
    page.wait_for_selector("th.w")
    waited(lambda: page.locator(".ink[data-drawn]").count() >= 2)
    one.shoot("compare")
    page.click("th.w a")
    page.wait_for_selector("text=Configuration")
    waited(lambda: page.locator(".ink[data-drawn]").count() >= 1)
    one.shoot("trial")
    page.click("text=Back to the study")
    page.wait_for_selector(".stages")


def test_a_population_has_its_lineage(seen):
    one = seen()
    page = one.open("1")
    page.wait_for_selector(".trials tbody tr")
    assert figure(page, "lineage") == 1
    one.shoot("lineage")


def test_a_running_study_moves_and_does_what_is_asked(seen, url):
    one = seen(color_scheme="dark")
    page = one.open("2")
    page.wait_for_selector(".running li")
    assert "random: trial" in page.locator(".running .why").first.inner_text()
    waited(lambda: number(page, ".panel canvas", "points") > 1)
    before = number(page, ".panel canvas", "points")
    waited(lambda: number(page, ".panel canvas", "points") > before + 3)  # live, without a reload

    # A configuration by hand: first a mistake, which is said; then a good one.
    page.click("#add")
    page.fill("#f-x", "7")
    page.click("dialog button[type=submit]")
    waited(lambda: "x: 7 is not in [0, 1]" in page.locator("dialog .problem").inner_text())
    one.shoot("mistake")
    assert [c for c in one.complaints if "400 (Bad Request)" not in c] == []  # the browser notes a refusal by itself
    one.complaints.clear()
    page.fill("#f-x", "0.125")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog", state="detached")
    waited(lambda: "to be started" in page.locator("#now").inner_text())

    # Stop what runs: it is asked back once. Then the one by hand is next.
    assert stop_first(page) == "Stop it?"
    waited(lambda: "added by hand" in page.locator(".running .why").first.inner_text())
    one.shoot("live")
    page.click("[data-show=hand]")
    waited(lambda: "x=0.125" in page.locator(".trials .config").first.inner_text())

    # Its log, while it runs.
    page.click(".trials tbody a")
    page.wait_for_selector(".log")
    waited(lambda: "epoch 1 of trial 1" in page.locator(".log").inner_text())
    page.click("text=Back to the study")

    page.click("#pause")
    waited(lambda: page.locator(".state").inner_text().startswith("pausing"))
    stop_first(page)
    waited(lambda: page.locator(".state").inner_text().startswith("paused"))
    page.click("#pause")
    waited(lambda: "random: trial" in page.locator("#now").inner_text())
    waited(lambda: page.locator(".state").inner_text().startswith("1 running"))


def test_it_is_read_on_a_phone_in_chinese_and_by_keyboard(seen):
    one = seen(viewport={"width": 390, "height": 844}, locale="zh-CN", has_touch=True)
    page = one.open("0")
    page.wait_for_selector(".stages li")
    assert page.locator("#h-curves").inner_text() == "学习曲线"
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    figure(page, "parallel")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    one.shoot("phone")
    page.evaluate("scrollTo(0, 0)")
    page.click("#lang")
    waited(lambda: page.locator("#h-curves").inner_text() == "Learning curves")
    page.click("#theme"), page.click("#theme")
    waited(lambda: page.evaluate("document.documentElement.dataset.theme") == "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"

    page.reload()
    page.wait_for_selector(".stages li")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.focus || ''"))
    assert {"skip", "lang", "theme"} <= set(reached)
    assert any(r.startswith("stage-") for r in reached)


def test_what_the_log_says_is_read_in_chinese(browser, tmp_path):
    place = tmp_path / "study.db"
    space = {"learning_rate": lt.Float(1e-5, 1e-1, log=True), "depth": lt.Int(1, 4), "dropout": lt.Float(0.0, 0.5)}
    study = lt.AskTell(space, minimize="val_loss", max_epochs=9, budget="25 trials", storage=place)
    while job := study.ask():
        for epoch in range(job.start + 1, job.until + 1):
            study.tell(job, epoch, train_loss=bowl(job.config, epoch), val_loss=bowl(job.config, epoch) + 0.1)
    with served([place]) as address, looking(browser, address, tmp_path) as make:
        one = make(locale="zh-CN")
        page = one.open("0")
        page.wait_for_selector(".trials tbody tr")
        assert "强默认配置" in page.locator("h1").inner_text()
        parts = ["h1", ".facts", ".said", ".trials .why"]
        read = [line for part in parts for text in page.locator(part).all_inner_texts() for line in text.splitlines()]
        for button in page.locator(".stages button").all():
            button.click()
            read += page.locator(".stage-said").inner_text().splitlines()
        waited(lambda: page.locator(".next li").count())
        read += page.locator(".next").inner_text().splitlines()
        assert len(read) > 60
        english = re.compile(r"\b(the|is|of|and|than|it|no|not|for|to|at|epochs?|trial)\b")
        assert [line for line in read if english.search(line)] == []
        one.shoot("chinese")
        page.click("#lang")
        waited(lambda: "strong default" in page.locator("h1").inner_text())
        # What is in no table stays as the log has it: no sentence is said by half.
        said = page.evaluate(
            "async (t) => { const { speaker } = await import('/static/said.js'); return t.map(speaker({ 'It is {n1}': "
            "'是 {n1}', 'the end': '结尾', 'say: {t1}': '说：{t1}', 'after {n1} epochs': '{n1} 轮后' })); }",
            [
                "after 1 epoch",
                "after 2 epochs",
                "It is 3.",
                "It is 3. It was 4.",
                "say: the end; It is 5",
                "say: the middle",
                "rate 0.1, size 3",
            ],
        )
        assert said == ["1 轮后", "2 轮后", "是 3。", None, "说：结尾；是 5", None, "rate 0.1, size 3"]


def test_a_finished_study_shows_the_stage_that_tells_most(seen):
    page = seen().open("0")
    page.wait_for_selector(".stages li")
    assert page.locator(".stage-said h3").inner_text() == "confirm"


def test_several_studies_are_listed(seen):
    one = seen()
    page = one.open("")
    page.wait_for_selector(".studies tr")
    assert page.locator(".studies tr").count() == 3
    assert page.locator(".studies .state").nth(0).inner_text() == "finished"
    page.click(".studies tr:nth-child(2) a")
    page.wait_for_selector(".facts")
    assert page.locator("#pick").input_value() == "1"
    one.shoot("studies")


def test_statuses_of_the_browser_are_those_of_the_log():
    import json

    from luthier.dashboard.server import STATIC

    texts = json.loads((STATIC / "texts.json").read_text(encoding="utf-8"))
    assert {f"status.{s.value}" for s in Status} <= texts.keys()
