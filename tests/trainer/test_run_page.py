import base64
import json
import re

import pytest

from trainer.logging.charts import HEIGHT
from trainer.run_page import main, render_page, write_page

START = {
    **{"event": "start", "time_s": 1e9, "recipe": "tiny", "init": None, "num_parameters": 12345},
    **{"num_trainable": 999, "device": "2 CPU threads", "torch": "2.13"},
}


def step(number, **values):
    record = {"phase": "main", "step": number, "loss": 9.0 / number, "loss_image": None, "grad_norm": 1.0}
    return {**record, "num_tokens": 100, "num_images": 0, "step_s": 0.5, "data_wait_s": 0.1, **values}


def lead_of(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))


def test_curves_of_every_phase_and_quantity():
    encoder = [{"phase": "encoder", "step": n, "loss": 3.0, "accuracy_digits": 0.5} for n in (1, 2)]  # an old log
    page = render_page("a <run>", [START, *encoder, *(step(n) for n in range(1, 11)), {**START, "event": "done"}], "")
    first, second = page.split("<h2>")[1:]
    titles = [re.findall(r"<b>(.*?)</b>", part) for part in (first, second)]
    assert titles[0] == ["loss", "accuracy digits"]
    speeds = ["tokens a second", "share of time waiting for data"]  # there were no images
    assert titles[1] == ["loss", "gradient norm", *speeds]
    assert "<h1>a &lt;run&gt;</h1>" in page
    numbers = re.findall(r"</span><span>(.*?)</span>", second)
    assert numbers == ["0.9", "1", "200", "0.2"]
    heights = [float(y) for y in re.findall(r" [\d.]+ ([\d.]+)", re.findall(r'class="mean" d="(.*?)"', page)[-1])]
    assert heights
    assert all(0 <= y <= HEIGHT for y in heights)
    assert not re.search(r"(src|href)=", page)  # nothing from outside


def test_datasets_have_curves_of_their_own():
    values = {"loss_text/cats": 2.0, "loss_image/cats": None, "loss_text/a <b>": 1.0, "mfu": 0.4}
    page = render_page("run", [step(n, **values, peak_memory_bytes=3 * 10**9) for n in (1, 2)], "")
    together, apart = page.split("<h3>Each dataset apart</h3>")
    titles = [re.findall(r"<b>(.*?)</b>", part) for part in (together, apart)]
    assert titles[0][-2:] == ["model FLOPs utilisation", "peak memory, GB"]
    assert re.findall(r"</span><span>(.*?)</span>", together)[-2:] == ["0.4", "3"]
    assert titles[1] == ["cats: text loss, nats a token", "a &lt;b&gt;: text loss, nats a token"]
    assert "Each dataset apart" not in render_page("run", [step(1)], "")


def test_the_head_tells_how_it_went():
    skipped = {"event": "skipped", "time_s": 1e9, "phase": "main", "step": 3}
    stopped = {"event": "stopped", "time_s": 1e9, "reason": "SIGTERM", "phase": "main", "step": 4}
    lead = lead_of(render_page("run", [START, step(1), skipped, stopped, START, skipped, step(4), stopped], ""))
    assert lead["State"].startswith("stopped: SIGTERM (2001-09-")
    assert lead["Last step"] == "4 of phase “main”"
    assert lead["Time in steps"] == "0:00:01"
    assert lead["Resumed"] == "1 times"
    assert lead["Skipped steps"].startswith("1, ")  # the resumed run made the same step again
    assert lead_of(render_page("run", [START], ""))["State"].startswith("began, and its end is not in the log")


def test_the_command_writes_the_page_of_an_old_run(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no log.jsonl; expected the directory of a training run." in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text(json.dumps(step(1)) + "\n")
    (tmp_path / "config.yaml").write_text("out: <here>\n")
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert "<pre>out: &lt;here&gt;\n</pre>" in page
    assert write_page(tmp_path) == tmp_path / "index.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "index.html", "log.jsonl"]


@pytest.mark.parametrize(("values", "is_log"), [((8.0, 1.0), True), ((2.0, 1.0), False), ((8.0, 0.0), False)])
def test_a_wide_loss_gets_a_logarithmic_axis(values, is_log):
    page = render_page("run", [step(n, loss=value) for n, value in enumerate(values, 1)], "")
    assert ("<b>loss</b>, log scale" in page) == is_log


def test_samples_of_a_run_are_on_its_page(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(step(1)) + "\n")
    (tmp_path / "samples").mkdir()
    for number in range(1, 15):
        (tmp_path / "samples" / f"{number:07d}.png").write_bytes(b"a%d" % number)
    (tmp_path / "samples" / ".0000099.png").write_bytes(b"half-written")
    page = write_page(tmp_path).read_text()
    shown = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,(.*?)"', page)]
    assert shown == [b"a14", b"a11", b"a8", b"a5", b"a2"]
    assert "5 of the 14 sheets in samples/" in page
