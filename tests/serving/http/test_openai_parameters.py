"""Parameters of OpenAI and of other image servers: obeyed, accepted with a warning, or refused."""

import base64
import inspect
import io
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from api_requests import colours, edit, events, opened, post
from fake_pipe import FakePipe, colour
from in_process import serving
from openai.types import image_edit_params, image_generate_params
from PIL import Image
from web import encode

from emage.inference.pipeline import Emage
from emage.serving.http.app import Options, make_app
from emage.serving.http.parameters import effects
from emage.serving.http.parameters.schema import WITHOUT_EFFECT, ImageRequest
from emage.serving.service import QueueLimits, Service

MARKED = encode(Image.new("RGBA", (24, 16), (9, 9, 9, 0)), "PNG")  # an image that is its own mask


def error_of(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_value" and "\n" not in error["message"]
    return error["param"], error["message"]


def test_every_parameter_of_the_installed_client_is_known() -> None:
    kinds = (image_generate_params.ImageGenerateParamsStreaming, image_edit_params.ImageEditParamsStreaming)
    names = {name for kind in kinds for name in inspect.get_annotations(kind) | kind.__annotations__}
    assert len(names) > 20
    assert names - {"image", "mask", "markup"} <= set(ImageRequest.model_fields)


# --- Obeyed ---


def test_a_webp_and_a_jpeg_are_as_large_as_their_compression(endpoint: str) -> None:
    sizes: dict[str, list[int]] = {"webp": [], "jpeg": []}
    for kind, lengths in sizes.items():
        for quality in (0, 50, None, 100):
            answer = post(
                endpoint, prompt="a red circle", seed=1, output_format=kind, output_compression=quality
            ).json()
            file = answer["data"][0]["b64_json"]
            assert answer["output_format"] == kind and opened(file).format == kind.upper() and answer["warnings"] == []
            lengths.append(len(file))
        assert lengths == sorted(lengths) and lengths[0] < lengths[-1], kind


def test_a_url_is_a_data_url(url: str) -> None:
    (item,) = post(url, prompt="a", seed=3, response_format="url", output_format="webp").json()["data"]
    head, _, data = item["url"].partition(",")
    assert head == "data:image/webp;base64" and "b64_json" not in item
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (24, 16)
    answer = events(post(url, prompt="a", seed=3, steps=2, stream=True, response_format="url").text)
    assert answer[-1][1]["warnings"] == ["response_format: has no effect: the events of a stream have b64_json"]


def test_another_size_is_scaled_if_that_is_asked(url: str) -> None:
    assert error_of(post(url, prompt="a", size="512x512")) == (
        "size",
        "size: this model generates 24x16; leave it out, or send scale=true to have them scaled",
    )
    answer = post(url, prompt="a", size="100x30", scale=True, seed=5).json()
    image = opened(answer["data"][0]["b64_json"])
    assert image.size == (100, 30) and answer["size"] == "100x30"
    assert image.getpixel((0, 0)) == colour("a", 5, 4) and answer["warnings"] == []
    assert error_of(post(url, prompt="a", size="9999x30", scale=True))[0] == "size"
    for wrong in ("big", "0x30", "1024", "64X64", "2x2 "):
        message = "size: must be auto or WIDTHxHEIGHT, such as 256x256"
        assert error_of(post(url, prompt="a", size=wrong, scale=True)) == ("size", message)
    assert post(url, prompt="a", size="auto", scale=True).json()["warnings"][0].startswith("scale: has no effect")


def test_the_names_of_other_servers(url: str, pipe: FakePipe) -> None:
    assert colours(post(url, prompt="a", seed=1, num_inference_steps=7)) == [colour("a", 1, 7)]
    assert post(url, prompt="a", num_inference_steps=7, steps=7).status_code == 200
    name, message = error_of(post(url, prompt="a", num_inference_steps=7, steps=8))
    assert name == "num_inference_steps" and "are the same setting and differ" in message
    assert error_of(post(url, prompt="a", num_inference_steps=97)) == (
        "num_inference_steps",
        "num_inference_steps=97: must be a whole number from 1 to 96",
    )
    assert error_of(post(url, prompt="a", num_inference_steps=97, stream=True))[0] == "num_inference_steps"


@pytest.mark.parametrize(("scale", "guidance"), [(0, 0.0), (0.5, 0.0), (1, 0.0), (1.5, 1.5), (7.5, 7.5)])
def test_guidance_scale_is_off_up_to_one(scale: float, guidance: float) -> None:
    body = ImageRequest(prompt="a", guidance_scale=scale)
    assert body.to_generation_request(0).sampling == {"guidance": guidance}


def test_a_negative_prompt_is_read_with_guidance(url: str, endpoint: str, demo_pipe: Emage) -> None:
    body = {"prompt": "a", "negative_prompt": "b c", "seed": 1}
    guided = post(url, **body, guidance_scale=3)
    assert colours(guided) == [colour("a, not b c", 1, 4)] and guided.json()["warnings"] == []
    assert guided.json()["usage"]["input_tokens"] == 3 + 4
    (line,) = post(url, **body).json()["warnings"]
    assert line == "negative_prompt: has no effect: it is read with guidance_scale (or guidance) above 1 only"
    answer = post(endpoint, prompt="a red circle", negative_prompt="a blue square", seed=3, guidance_scale=4, steps=4)
    (expected,) = demo_pipe.generate("a red circle", negative_prompt="a blue square", seed=3, guidance=4.0, steps=4)
    assert opened(answer.json()["data"][0]["b64_json"]).tobytes() == expected.tobytes()


def test_seed_minus_one_is_random_and_reported(url: str) -> None:
    seeds = [post(url, prompt="a", seed=-1).json()["data"][0]["seed"] for _ in range(3)]
    assert min(seeds) >= 0 and len(set(seeds)) > 1
    assert colours(post(url, prompt="a", seed=seeds[0])) == [colour("a", seeds[0], 4)]


# --- Accepted with a warning ---

CHANGE_NOTHING: dict[str, Any] = {
    "quality": "high",
    "complexity": "low",
    "style": "vivid",
    "moderation": "low",
    "input_fidelity": "high",
    "safety_identifier": "user-1",
    "user": "user-2",
    "metadata": {"team": "art"},
    "frame_count": 9,
    "frame_duration_ms": 200,
    "svg": {"model": "author"},
}


def test_what_changes_nothing_is_accepted_and_reported(url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert set(CHANGE_NOTHING) == set(WITHOUT_EFFECT)
    effects._logged.clear()
    with caplog.at_level(logging.WARNING, effects.__name__):
        answers = [post(url, prompt="a", seed=3, **CHANGE_NOTHING) for _ in range(2)]
    assert colours(answers[0]) == colours(post(url, prompt="a", seed=3))
    warnings = answers[0].json()["warnings"]
    assert [line.partition(":")[0] for line in warnings] == list(CHANGE_NOTHING)
    assert warnings[0] == "quality: has no effect: there is one quality"
    assert answers[0].json()["safety_identifier"] == "user-1"
    (record,) = caplog.records  # one line for both requests, without the values
    assert "quality, complexity, style" in record.getMessage() and "user-1" not in record.getMessage()


def test_what_is_as_asked_needs_no_warning(url: str) -> None:
    answer = post(
        url, prompt="a", quality="auto", moderation="auto", background="opaque", size="24x16", n=None, metadata={}
    )
    assert answer.json()["warnings"] == [] and answer.json()["background"] == "opaque"
    assert "safety_identifier" not in answer.json()


def test_warnings_of_an_edit_and_of_a_stream(url: str) -> None:
    form = {
        "prompt": "a",
        "metadata[team]": "art",
        "svg[reasoning][effort]": "low",
        "input_fidelity": "high",
        "style": "",
    }
    answer = edit(url, {"image": MARKED}, **form)
    assert [line.partition(":")[0] for line in answer.json()["warnings"]] == ["input_fidelity", "metadata", "svg"]
    assert edit(url, {"image": MARKED}, prompt="a", metadata='{"team": "art"}').status_code == 200
    for whole in ("art", '{"team": "art"}'):
        answer = edit(url, {"image": MARKED}, **{"prompt": "a", "metadata": whole, "metadata[team]": "art"})
        assert answer.status_code == 400 and answer.json()["error"]["message"] == "metadata is given twice"
    form = {"prompt": "a", "metadata": "", "metadata[team]": "art"}
    assert len(edit(url, {"image": MARKED}, **form).json()["warnings"]) == 1
    (*_, (name, last)) = events(post(url, prompt="a", steps=2, stream=True, quality="high", user="me").text)
    assert name == "image_generation.completed" and last["safety_identifier"] == "me"
    assert [line.partition(":")[0] for line in last["warnings"]] == ["quality", "user"]


def test_other_warnings(url: str) -> None:
    def warnings(**body: Any) -> list[str]:
        return post(url, **{"prompt": "a", **body}).json()["warnings"]

    assert warnings(output_compression=50) == ["output_compression: has no effect: a png is lossless"]
    assert warnings(partial_images=2) == ["partial_images: has no effect: previews are sent with stream=true only"]
    (line,) = warnings(prompt="a word " * 20)
    assert line == "prompt: its first 12 tokens were read, all that fits"


# --- Refused ---


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("background", "transparent", "have no transparent parts"),
        ("output_format", "gif", "still images"),
        ("output_format", "svg", "still images"),
    ],
)
def test_what_would_be_another_image_is_refused(url: str, name: str, value: str, reason: str) -> None:
    for answer in (post(url, prompt="a", **{name: value}), edit(url, {"image": MARKED}, prompt="a", **{name: value})):
        param, message = error_of(answer)
        assert param == name and message.startswith(f"{name}={value}: ") and reason in message


def test_edits_of_several_images_or_without_a_mask_are_one_clear_line(url: str) -> None:
    opaque = {mode: encode(Image.new(mode, (24, 16), "white"), "PNG") for mode in ("RGB", "RGBA")}
    several = [("image[]", ("a.png", MARKED)), ("image[]", ("b.png", MARKED)), ("image[]", ("c.png", MARKED))]
    answer = httpx.post(f"{url}/v1/images/edits", data={"prompt": "a"}, files=several)
    message = "image: 3 files were sent; this model edits one image by one mask: send one image"
    assert error_of(answer) == ("image", message)
    for image in opaque.values():
        error = edit(url, {"image": image}, prompt="a").json()["error"]
        assert (error["param"], error["code"]) == ("mask", "missing_required_parameter")
        assert error["message"].startswith("mask: it is missing, and the image has no transparent part: ")
    assert edit(url, {"image": MARKED, "mask": b""}, prompt="a").status_code == 200  # an empty file is not given
    assert error_of(edit(url, {"image": MARKED, "markup": MARKED}, prompt="a"))[0] == "markup"
    answer = httpx.post(f"{url}/v1/images/edits", data={"prompt": "a", "image": "a.png"}, files={"mask": MARKED})
    assert error_of(answer) == ("image", "image: must be a file, not text")


# --- Names of the model, and tokens ---


@pytest.fixture(scope="module")
def named() -> Iterator[str]:
    options = Options(model_names=("paper-512", "dall-e-3"))
    with serving(lambda: make_app(Service(FakePipe(), QueueLimits()), options)) as url:
        yield url


def test_a_model_has_a_name_and_aliases(named: str) -> None:
    for name in (None, "", "paper-512", "dall-e-3"):
        assert post(named, prompt="a", model=name).status_code == 200
    error = post(named, prompt="a", model="emage").json()["error"]
    assert error["code"] == "model_not_found" and error["message"] == (
        "unknown model 'emage': only 'paper-512', 'dall-e-3' is served: send it, or leave model out"
    )
    listed = httpx.get(f"{named}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["paper-512", "dall-e-3"]
    assert httpx.get(f"{named}/v1/models/dall-e-3").json() == listed[1]
    assert httpx.get(f"{named}/v1/models/emage").status_code == 404


def test_the_names_whose_images_are_urls_by_default(named: str) -> None:
    (item,) = post(named, prompt="a", model="dall-e-3").json()["data"]
    assert item["url"].startswith("data:image/png;base64,")
    for model, kind in (("dall-e-3", "b64_json"), ("paper-512", None)):
        (item,) = post(named, prompt="a", model=model, response_format=kind).json()["data"]
        assert item["b64_json"] and "url" not in item
    (item,) = edit(named, {"image": MARKED}, prompt="a", model="dall-e-3").json()["data"]
    assert item["b64_json"] and "url" not in item


def test_usage_counts_tokens(url: str) -> None:
    usage = post(url, prompt="three words here", n=2, candidates=2).json()["usage"]
    assert usage == {
        "input_tokens": 5,  # and a start and an end
        "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
        "output_tokens": 192,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 192},
        "total_tokens": 197,
    }
    streamed = events(post(url, prompt="three words here", n=2, steps=2, stream=True).text)
    done = [data["usage"] for name, data in streamed if name.endswith(".completed")]
    assert [counts["total_tokens"] for counts in done] == [101, 101]
    edited = edit(url, {"image": MARKED}, prompt="one").json()["usage"]
    assert edited["input_tokens_details"] == {"text_tokens": 3, "image_tokens": 96}


def test_usage_of_the_shipped_model(endpoint: str) -> None:
    usage = post(endpoint, prompt="a red circle").json()["usage"]
    assert usage["input_tokens_details"] == {"text_tokens": 5, "image_tokens": 0} and usage["output_tokens"] == 64
    long = post(endpoint, prompt="a red circle " * 60).json()
    assert long["prompt_cut"] and long["usage"]["input_tokens"] == int(long["warnings"][0].split()[3])
