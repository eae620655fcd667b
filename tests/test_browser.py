"""The app in real browsers: a whole session, what is refused, a visitor who leaves, four at once."""

import json
import re
import time
import zipfile
from contextlib import suppress
from io import BytesIO
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from conftest import FakeJudge, make_pair, same, weights

from unreel import active_interventions
from unreel.interventions.base import RECORD_FILE
from unreel.web.visit import Host
from unreel.workflow import Place

pytestmark = pytest.mark.usefixtures("hasty")
PATIENCE = 1800  # seconds until what never happens is taken to have failed, on however busy a machine


@pytest.fixture(scope="module")
def host():
    return Host(make_pair(), FakeJudge(), "tiny", Place())


@pytest.fixture(scope="module")
def port(host):
    pytest.importorskip("gradio")
    from unreel.web.app import serving

    with serving(host, "0.0.0.0", None) as where:
        yield urlsplit(where).port


class Visitor:
    """One tab of a browser, by what stands on its page."""

    def __init__(self, browser, address):
        browser.switch_to.new_window("tab")
        self.browser, self.tab = browser, browser.current_window_handle
        browser.get(address)
        self.shown("//button[normalize-space()='Forget it']")

    def once(self, look):
        """What `look()` returns, once that is something; what the page draws anew meanwhile is looked for again."""
        from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException

        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(ElementNotInteractableException, StaleElementReferenceException):
                if seen := look():
                    return seen
            time.sleep(0.1)
        raise AssertionError(f"it never came: {self.browser.page_source[-2000:]}")

    def click(self, path):
        self.once(lambda: self.shown(path).click() or True)

    def shown(self, path):
        """The element at `path` that can be seen, once there is one."""
        return self.once(lambda: next((e for e in self.browser.find_elements("xpath", path) if e.is_displayed()), None))

    def look(self):
        self.browser.switch_to.window(self.tab)
        return self

    def field(self, label):
        named = f"//*[self::label or self::fieldset][.//span[normalize-space()='{label}']]"
        return self.shown(f"({named}//textarea | {named}//input | //input[@aria-label='{label}'])")

    def type(self, label, text):
        field = self.field(label)
        field.clear()
        field.send_keys(text)

    def press(self, name):
        self.click(f"//button[normalize-space()='{name}']")

    def tick(self, label):
        self.click(f"//label[.//span[normalize-space()='{label}']]//input[@type='checkbox']")

    def said(self, pattern):
        """What is said to happen, once it matches `pattern`."""
        found = self.once(lambda: re.search(pattern, self.field("What happens").get_property("value")))
        return found.string

    def labels(self):
        """Of all boxes that can be ticked and seen."""
        boxes = self.browser.find_elements("xpath", "//label[.//input[@type='checkbox']]")
        return [box.text.strip() for box in boxes if box.is_displayed()]

    def forget(self, concept):
        self.type("What to forget", concept)
        self.tick("Keep it even if the self-check falls short")
        self.press("Forget it")

    def leave(self):
        self.look().browser.close()
        self.browser.switch_to.window(self.browser.window_handles[0])


@pytest.fixture
def visitor(browser, port):
    visitors = []

    def come():
        # Each by another name of this machine, which browsers know by themselves, since they hold few connections to one.
        visitors.append(Visitor(browser, f"http://visitor{len(visitors)}.localhost:{port}/"))
        return visitors[-1]

    yield come
    for each in visitors:
        if each.tab in browser.window_handles:
            each.leave()


def at_rest(host):
    """The text encoder's weights while nobody computes; jobs of earlier visitors may be at work until then."""
    return host.worker.submit(weights, host.pair.t2v.text_encoder).result()


def test_a_session_from_typing_to_the_download(visitor, browser, host):
    before = at_rest(host)
    it = visitor()
    it.type("Other words for it, with ; between", "tom; grey kitten;")
    it.forget("cat")
    assert "check: " in it.said("forgotten as cat")
    it.press("Try it")
    it.type("Prompt", "a cat")
    it.tick("cat")
    it.press("Make both videos")
    it.shown("//*[contains(@aria-label, 'original: a cat') or contains(., 'original: a cat')]")
    it.press("Did it work?")
    assert it.field("Erasure").get_property("value") == "cat"
    it.press("Evaluate")
    it.said("seen|videos|judge")
    it.press("Take it along")
    assert it.field("Erasure").get_property("value") == "cat"
    it.press("Pack")
    it.said(r"cat.*\.zip: ")
    link = it.shown("//a[contains(@href, '.zip')]").get_attribute("href")
    with urlopen(link.replace("visitor0.localhost", "127.0.0.1")) as sent:  # browsers alone know the name everywhere
        packed = zipfile.ZipFile(BytesIO(sent.read()))
    assert "erasure.safetensors" in packed.namelist()
    assert json.loads(packed.read(RECORD_FILE))["parts"][0]["synonyms"] == ["tom", "grey kitten"]
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert asked and not [url for url in asked if not url.startswith(("http://visitor0.localhost:", "data:", "blob:"))]
    assert same(before, at_rest(host)) and not active_interventions(host.pair.t2v)


def test_what_is_refused_is_said_in_words_and_markup_stays_text(visitor, browser):
    it = visitor()
    it.forget("the")
    assert "says nothing" in it.said("'the'")
    it.type("What to forget", "<img src=x>")
    it.press("Forget it")
    it.said("forgotten as <img src=x>: ")
    assert browser.title == "unreel" and not browser.find_elements("xpath", "//img[@src='x']")


def test_who_leaves_in_the_middle_keeps_nobody_waiting(visitor, host):
    before = at_rest(host)
    gone, other = visitor(), visitor()
    gone.look().forget("cat")
    gone.said(r"\d %|check: ")
    gone.leave()
    other.look().forget("dog")
    other.said("forgotten as dog")
    assert same(before, at_rest(host)) and not active_interventions(host.pair.t2v)


def test_four_at_once_get_what_they_asked_for_and_nothing_else(visitor, host):
    before = at_rest(host)
    concepts = ["cat", "dog", "castle", "guitar"]
    visitors = [visitor() for _ in concepts]
    for each, concept in zip(visitors, concepts, strict=True):
        each.look().forget(concept)
    for each, concept in zip(visitors, concepts, strict=True):
        said = each.look().said("forgotten as ")
        assert f"forgotten as {concept}:" in said and said.count("forgotten as") == 1
    for each, concept in zip(visitors, concepts, strict=True):
        each.look().press("Try it")
        each.shown(f"//label[.//span[normalize-space()='{concept}']]//input[@type='checkbox']")
        assert each.labels() == [concept]
    assert same(before, at_rest(host)) and not active_interventions(host.pair.t2v)
