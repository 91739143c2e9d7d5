"""The live camera: its frames, how it starts and how it ends."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.tasks.web.conftest import answered, opened, panel_of, wait_until_settled

FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# denied by an option, as a headless browser's answer to a permission prompt is not documented
REFUSED = ("--use-fake-device-for-media-stream", "--deny-permission-prompts")
# the fetch of a sample waits for an event
HELD = """
const get = window.fetch;
window.fetch = async (url) => {
  const root = document.documentElement;
  if (url.startsWith("data:image")) await new Promise((released) => {
    root.addEventListener("release", released);
    root.dataset.held = "";
  });
  return get(url);
};
"""
# a camera that has a new frame only when `shoot` is called
STILL = """
const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
if (navigator.mediaDevices) navigator.mediaDevices.getUserMedia = async (wanted) => {
  window.asked_for = wanted.video;
  return window.camera = canvas.captureStream(0);
};
let shots = 0;
window.shoot = () => {
  pen.fillStyle = `hsl(${37 * shots++ % 360} 80% 50%)`;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  camera.getTracks()[0].requestFrame();
};
"""


@pytest.fixture(scope="module")
def video(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake camera sees: Motion JPEG."""
    path = tmp_path_factory.mktemp("video") / "camera.mjpeg"
    with path.open("wb") as file:
        for image in sorted((scenes / "train").glob("*.jpg"))[:12]:
            buffer = io.BytesIO()
            Image.open(image).resize((320, 240)).save(buffer, "JPEG", quality=90)
            file.write(buffer.getvalue())
    return path


def test_camera_frames_are_answered(
    exports: dict[str, Path], whole: Path, video: Path, launch: Callable[..., Browser]
) -> None:
    with launch(*FAKE, f"--use-file-for-fake-video-capture={video}") as own, opened(own, whole.as_uri()) as tab:
        answered(tab)
        panel = panel_of(tab, exports["detection-litert"])
        tab.click("#camera")
        expect(panel.locator("dl")).to_contain_text("frames a second")
        expect(panel.locator("dl")).to_contain_text("median of 30")
        expect(panel.locator(".answer")).to_have_attribute("aria-live", "off")
        # Safari stops a video that is not rendered
        assert tab.locator("#video").evaluate("video => video.getClientRects().length") == 1
        for _ in range(2):  # other frames have other answers
            seen = panel.locator("pre").text_content() or ""
            expect(panel.locator("pre")).not_to_have_text(seen)
        tab.click("#camera")
        expect(tab.locator("#camera")).to_have_attribute("aria-pressed", "false")
        expect(panel.locator(".answer")).to_have_attribute("aria-live", "polite")


def test_each_frame_is_answered_once_until_the_camera_ends(dogs_page: Path, chromium: Browser) -> None:
    message, count = "#message", "() => answered.length"
    running = """() => {
        const own = answerFrames;
        window.loops = 0;
        answerFrames = (...given) => { loops += 1; return own(...given).finally(() => { loops -= 1; }); };
    }"""
    with opened(chromium, dogs_page.as_uri(), bypass_csp=True, script=STILL) as tab:
        answered(tab)
        tab.evaluate(running)
        tab.click("#camera")
        tab.wait_for_function("() => window.camera")
        tab.wait_for_function("() => { shoot(); return loops && answered.length; }", polling=100)
        tab.wait_for_timeout(300)  # until the frames so far are answered
        before = tab.evaluate(count)
        tab.wait_for_timeout(300)  # without a new frame, there must be no answer
        assert tab.evaluate(count) == before
        for new in (1, 2):
            tab.evaluate("() => shoot()")
            tab.wait_for_function(f"() => answered.length >= {before + new}")
            wait_until_settled(tab)
            assert tab.evaluate(count) == before + new
        tab.evaluate("() => camera.getTracks()[0].dispatchEvent(new Event('ended'))")  # as if it were unplugged
        expect(tab.locator(message)).to_contain_text("The camera has stopped")
        expect(tab.locator("#camera")).to_have_attribute("aria-pressed", "false")
        tab.wait_for_function("() => loops === 0")


def test_the_camera_is_asked_for_as_many_pixels_as_the_models_see(dogs_page: Path, chromium: Browser) -> None:
    sides = "() => [asked_for.width.ideal, asked_for.height.ideal]"
    with opened(chromium, dogs_page.as_uri(), bypass_csp=True, script=STILL) as tab:
        answered(tab)
        for crop, wanted in ((0.875, [640, 480]), (0.125, [1024, 768])):  # of 96 pixels
            tab.evaluate("crop => { models[0].spec.input.center_crop = crop; }", crop)
            tab.evaluate("() => { startCamera(); }")
            assert tab.evaluate(sides) == wanted


def test_a_camera_that_is_asked_for_twice_is_on_once(whole: Path, launch: Callable[..., Browser]) -> None:
    """And not at all where a photo was chosen meanwhile."""
    script = """window.cameras = [];
        const given = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices);
        if (given) navigator.mediaDevices.getUserMedia = async (wanted) => {
            const camera = await given(wanted);
            cameras.push(camera);
            return camera;
        };"""
    on = "() => cameras.map((camera) => camera.getTracks().some((track) => track.readyState === 'live'))"
    with launch(*FAKE) as own, opened(own, whole.as_uri(), bypass_csp=True, script=script) as tab:
        answered(tab)
        tab.evaluate("() => { byId('camera').click(); byId('camera').click(); }")
        expect(tab.locator("#camera")).to_have_attribute("aria-pressed", "true")
        tab.wait_for_function("() => cameras.length === 2")
        assert sorted(tab.evaluate(on)) == [False, True]
        expect(tab.locator("#message")).to_be_hidden()
        tab.click("#camera")
        assert tab.evaluate(on) == [False, False]
        tab.evaluate("() => { byId('camera').click(); byId('samples').firstChild.click(); }")
        tab.wait_for_function("() => cameras.length === 3")
        wait_until_settled(tab)
        assert tab.evaluate(on) == [False, False, False]
        expect(tab.locator("#camera")).to_have_attribute("aria-pressed", "false")


def test_a_camera_that_is_refused(dogs_page: Path, launch: Callable[..., Browser]) -> None:
    with launch(*REFUSED) as own, opened(own, dogs_page.as_uri()) as tab:
        tab.click("#camera")  # at once, while the runtimes load
        expect(tab.locator("#message")).to_contain_text("The camera was refused")
    with launch(*REFUSED) as own, opened(own, dogs_page.as_uri(), script=HELD) as tab:
        tab.wait_for_selector("html[data-held]")
        tab.click("#camera")  # while the first sample is read
        tab.dispatch_event("html", "release")
        expect(tab.locator("#message")).to_contain_text("The camera was refused")
        tab.wait_for_timeout(200)  # the sample must not open afterwards
        expect(tab.locator("#message")).to_contain_text("The camera was refused")
