"""Reports: what they refuse, what they say, and how they look in a browser."""

import json
import math
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import idem_md
from idem_md import System, UsageError, WeightedEnsemble
from idem_md.baselines import ENGINES
from idem_md.ensemble.estimators import Source
from idem_md.report import compare
from idem_md.report.figures import density_edges, span
from idem_md.rounding import with_error

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three(lj13_sampler):
    """Weighted samples, frames of a chain, and a reference."""
    md = ENGINES["mala"].run("lj13", 300, 2000, seed=1)
    chain = WeightedEnsemble(
        md.positions, md.energies, np.zeros(300), md.system, md.provenance, "chain", Source(300, 40.0, np.nan, np.nan)
    )
    return {
        "ours": lj13_sampler.sample(400, nfe=6, seed=0),
        "md": chain,
        "reference": ENGINES["mala"].run("lj13", 600, 2000, seed=2),
    }


@pytest.fixture(scope="module")
def report(three, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, compare(three, folder, aligned=False)


def test_report_is_one_set_of_files(report, three):
    folder, summary = report
    assert sorted(p.name for p in folder.iterdir()) == [
        "histograms.png",
        "index.html",
        "summary.json",
        "table.md",
        "weights.png",
    ]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert "Pareto k" in summary["sentences"][2] and "as frames of chains are correlated" in summary["sentences"][3]
    assert sum("agree" in s for s in summary["sentences"][:2]) == 2 and len(summary["sentences"]) == 5
    for label, floors in summary["floors"].items():
        assert 0.1 < floors["raw"]["energy_w2"] < 6 and floors["raw"]["total_variation"] < 0.1
        sizes = len(three[label]) * (three[label].ess / len(three[label]) if label == "md" else 1), three[label].ess
        scale = [math.sqrt(1 / n + 1 / 600) for n in sizes]
        assert floors["weighted"]["energy_w2"] / floors["raw"]["energy_w2"] == pytest.approx(scale[1] / scale[0])
    text = (folder / "table.md").read_text()
    assert all(label in text for label in three) and "an energy call, over 1,000,000" in text


def test_a_few_samples_far_away_do_not_hide_the_others(three):
    """Some raw samples have exploded: axes are those of the sets that are to be trusted."""
    e, chain = three["ours"], three["md"]
    u = np.concatenate([e.energies[4:], [1e3, 1e4, 1e5, 1e6]])
    raw = WeightedEnsemble(e.positions, u, np.zeros(len(u)), e.system, e.provenance, "raw")
    both = {"raw": raw, "md": chain}
    lo, hi = span(both, {k: e.energies[e.alive] for k, e in both.items()}, 0.001)
    assert chain.energies.min() <= lo < hi <= chain.energies.max()
    assert span({"raw": raw}, {"raw": raw.energies[raw.alive]}, 0.001)[1] > 1e5


def test_bins_are_as_many_as_the_fewest_samples_fill(three):
    """For few effective samples few bins, for constants some all the same."""
    values = {label: e.energies[e.alive] for label, e in three.items()}
    edges = density_edges(three, values, 0.001)
    assert len(edges) - 1 == 10 > 2 * three["md"].ess ** (1 / 3)
    lo, hi = span(three, values, 0.001)
    assert edges[0] < lo < hi < edges[-1] < hi + 0.1 * (hi - lo)
    many = {label: np.repeat(v[:, None], 1000, 1) for label, v in values.items()}
    assert len(density_edges(three, many, 0.001)) - 1 == int(2 * (1000 * three["md"].ess) ** (1 / 3))
    constant = {label: np.zeros(len(v)) for label, v in values.items()}
    assert np.isfinite(density_edges(three, constant, 0.001)).all()


def test_exact_samples_are_no_further_apart_than_chance(tmp_path):
    """However few they are, and whether they are weighted, equal or frames of a chain."""
    random, n = np.random.default_rng(0), 4000
    reference = ENGINES["exact"].run("gmm40", n, seed=1)
    few = ENGINES["exact"].run("gmm40", 100, seed=2)
    raw = WeightedEnsemble(few.positions, few.energies, few.log_weights, few.system, few.provenance, "raw")
    spread = ENGINES["exact"].run("gmm40", n, seed=3)
    # Weights that have nothing to do with the samples.
    w = random.normal(size=n) * 1.6
    weighted = WeightedEnsemble(spread.positions, spread.energies, w, spread.system, spread.provenance)
    copies = np.repeat(np.arange(60), 20)
    chain = WeightedEnsemble(
        few.positions[copies],
        few.energies[copies],
        np.zeros(len(copies)),
        few.system,
        few.provenance,
        "chain",
        Source(len(copies), 60.0, np.nan, np.nan),
    )
    for e in (few, raw, weighted, chain):
        sentence = compare({"ours": e, "reference": reference}, tmp_path / "r", aligned=False)["sentences"][0]
        assert "as close as these samples can tell" in sentence, (e.kind, sentence)
    x = few.positions + 2 * random.normal(size=few.positions.shape)
    u = few.system.energy()(torch.from_numpy(x))[0].numpy()
    hot = WeightedEnsemble(x, u, few.log_weights, few.system, few.provenance)
    assert "further apart" in compare({"ours": hot, "reference": reference}, tmp_path / "r")["sentences"][0]


def test_costs_add_up(report, three):
    _, summary = report
    ours, e = summary["ensembles"]["ours"]["cost"], three["ours"]
    assert ours["ess_per_second"] == pytest.approx(e.ess / e.provenance["seconds"])
    training = e.provenance["training"]
    assert training["seconds"] > 1000 and training["energy_calls"] > 1e9
    share = len(e) / 10_000
    with_it = e.ess / (e.provenance["seconds"] + share * training["seconds"])
    assert ours["spread"]["10000"]["ess_per_second"] == pytest.approx(with_it)
    calls = e.ess / (e.provenance["energy_calls"] + share * training["energy_calls"])
    assert ours["spread"]["10000"]["ess_per_energy_call"] == pytest.approx(calls)
    md = summary["ensembles"]["md"]["cost"]
    assert md["training"] is None and md["spread"]["10000"]["ess_per_second"] == md["ess_per_second"]


class Loads(HTMLParser):
    """What a page would fetch, and the text of its scripts."""

    def __init__(self):
        super().__init__()
        self.fetched, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_page_needs_nothing_else(report):
    text = (report[0] / "index.html").read_text(encoding="utf-8")
    page = Loads()
    page.feed(text)
    assert page.fetched == [] and page.open.count("script") == 3 and not {"link", "img", "iframe"} & set(page.open)
    assert "default-src 'none'" in text and "@import" not in text.split("</style>")[0]


def test_what_a_reader_wants_comes_first(report, three):
    """The verdict, averages in three units with digits by their errors, pictures; what publications state is folded
    away, and so are costs with the training."""
    text = (report[0] / "index.html").read_text(encoding="utf-8")
    body = text[text.index("<body>") : text.index('<script type="application/json"')]
    order = ["<h1>", 'class="verdict"', "mean energy (kT)", "samples are worth", 'id="energies"', "effective a second"]
    places = [body.index(part) for part in (*order, "Distances from the reference", "over 1,000,000")]
    assert places == sorted(places) and body.count('class="verdict"') == 1
    folded = [part.split("</details>")[0] for part in body.split("<details>")[1:]]
    assert "energy W2, raw (kT)" in folded[0] and "over 1,000,000" in folded[1] and len(folded) == 2 + len(three)
    shown = re.sub(r"<details>.*?</details>", "", body, flags=re.S)
    assert not re.search(r"\d\.\d{7,}", shown) and "e+0" not in shown
    e = three["reference"]
    for factor in (1.0, e.system.units.kT_eV, e.system.units.kT_kJ_per_mol):
        assert with_error(*(factor * value for value in e.mean_energy)) in shown
    named = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))["plots"]["energies"]["data"]
    assert {f"{label} ({e.ess:,.0f} effective)" for label, e in three.items()} <= {t.get("name") for t in named}


def test_page_escapes_what_it_shows(three, tmp_path):
    evil = "</script><script>alert(1)</script>&"
    compare({evil: three["md"], "reference": three["reference"]}, tmp_path, aligned=False)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S).group(1)
    assert evil in json.loads(data)["structures"]


@pytest.mark.parametrize("name", ["gmm40", "dw4"])
def test_systems_in_the_plane(name, tmp_path):
    sets = {f"{k}": idem_md.load_sampler(name).sample(200, nfe=6, seed=k) for k in (0, 1)}
    sets["raw"] = idem_md.load_sampler(name).sample(100, nfe=4, seed=2, weighted=False)
    summary = compare({"raw": sets["raw"], "a": sets["0"], "b": sets["1"]}, tmp_path)
    assert summary["ensembles"]["raw"]["ess"] is None and "raw samples without weights" in summary["sentences"][2]
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert ('id="plane"' in text) == (name == "gmm40") and ('id="structure"' in text) == (name == "dw4")


def test_other_potentials_temperatures_and_atoms_are_refused_whatever_they_are_called(three, tmp_path):
    e = three["reference"]

    def refused(other, message):
        with pytest.raises(UsageError, match=message):
            compare({"other": other, "reference": e}, tmp_path / "no", aligned=False)
        assert not (tmp_path / "no").exists()

    hot = ENGINES["mala"].run(e.system.at(80), 20, 500)
    refused(hot, "the same temperatures, got 80")
    same_name = WeightedEnsemble(e.positions, 1.1 * e.energies, e.log_weights, e.system)
    refused(same_name, "one potential, that of 'lj13' gives")
    fewer = WeightedEnsemble(
        e.positions[:, :12],
        e.energies,
        e.log_weights,
        System.described({**e.system.describe(), "name": "custom", "elements": ["Ar"] * 12}),
    )
    refused(fewer, "the same atoms")
    # The same potential by another name is welcome, and so is one that only its file describes.
    described = System.described({**e.system.describe(), "name": "mine"})
    renamed = WeightedEnsemble(e.positions, e.energies, e.log_weights, described)
    assert compare({"mine": renamed, "reference": e}, tmp_path / "yes", aligned=False)["reference"] == "reference"
    unknown = System.described({**e.system.describe(), "name": "mine", "potential": None})
    two = {
        k: WeightedEnsemble(e.positions, e.energies, e.log_weights, unknown, {"parameters": {"epsilon": k}})
        for k in (1, 2)
    }
    with pytest.raises(UsageError, match="compare: b: expected the same parameters"):
        compare({"a": two[1], "b": two[2]}, tmp_path / "no", aligned=False)


@pytest.fixture(scope="module")
def browser():
    if shutil.which("chromedriver") is None and not os.environ.get("CI"):
        pytest.skip("needs chromium and chromedriver, which are not here")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


# Texts that stick out of their figure, or lie on each other; elements that make the page scroll sideways.
CLIPPED = """
const found = [];
if (document.documentElement.scrollWidth > innerWidth) found.push("page scrolls sideways");
for (const plot of document.querySelectorAll(".plot")) {
  const box = plot.getBoundingClientRect();
  const texts = [...plot.querySelectorAll(".xtitle, .ytitle, .legendtext, .xtick text, .ytick text")];
  const rects = texts.map(t => t.getBoundingClientRect());
  rects.forEach((r, k) => {
    if (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1)
      found.push(plot.id + " clips " + texts[k].textContent);
    for (let m = 0; m < k; m++) {
      const q = rects[m];
      if (r.left + 1 < q.right && q.left + 1 < r.right && r.top + 1 < q.bottom && q.top + 1 < r.bottom)
        found.push(plot.id + ": " + texts[k].textContent + " on " + texts[m].textContent);
    }
  });
  const titles = plot.querySelectorAll(".xtitle, .ytitle").length;
  if (plot.id !== "structure" && titles !== 2) found.push(plot.id + " has " + titles + " titles");
}
document.querySelectorAll("details").forEach(d => d.open = true);
for (const e of document.querySelectorAll(".rows"))
  if (e.scrollWidth > e.clientWidth + 1) found.push("a table scrolls: " + e.textContent.slice(0, 40));
for (const e of document.querySelectorAll("td, th, li, h1, select"))
  if (e.scrollWidth > e.clientWidth + 1) found.push("overflow in " + e.textContent.slice(0, 40));
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1920, 1366, 390])
def test_report_in_a_browser(report, browser, width, scheme):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("performance")
    browser.get((report[0] / "index.html").as_uri())
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(
        lambda d: d.execute_script("return document.querySelectorAll('.plot .main-svg').length") >= 8
    )
    assert browser.execute_script(CLIPPED) == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(255, 255, 255)") == (scheme == "light")


def test_report_can_be_read_zoomed_and_clicked(report, browser, three):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get((report[0] / "index.html").as_uri())
    area = WebDriverWait(browser, 20).until(lambda d: d.find_element(By.CSS_SELECTOR, "#energies .nsewdrag"))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
    visible = "return document.getElementById('energies').data.map(t => t.visible ?? true)"
    wide = browser.execute_script("return document.getElementById('energies').layout.xaxis.range")
    # A value, as it stands in the figure.
    ActionChains(browser).move_to_element(area).perform()
    said = WebDriverWait(browser, 10).until(
        lambda d: (
            d.find_elements(By.CSS_SELECTOR, "#energies .hovertext")
            and d.find_element(By.CSS_SELECTOR, "#energies .hovertext").text
        )
    )
    assert re.search(r"[−-]\d+[.\d]*: [\d.]+.* ± ", said), said
    ActionChains(browser).move_to_element_with_offset(area, -60, 0).click_and_hold().move_by_offset(
        120, 0
    ).release().perform()
    near = WebDriverWait(browser, 10).until(
        lambda d: (
            (now := d.execute_script("return document.getElementById('energies').layout.xaxis.range")) != wide and now
        )
    )
    assert near[1] - near[0] < 0.6 * (wide[1] - wide[0])
    before = browser.execute_script(visible)
    browser.find_element(By.CSS_SELECTOR, "#energies .legendtoggle").click()
    WebDriverWait(browser, 10).until(lambda d: d.execute_script(visible) != before)
    which = Select(browser.find_element(By.ID, "which"))
    assert [o.text.split()[0] for o in which.options] == [label for label in three for _ in range(6)]
    first = browser.execute_script("return document.getElementById('structure').data[1].x")
    which.select_by_index(7)
    WebDriverWait(browser, 10).until(
        lambda d: d.execute_script("return document.getElementById('structure').data[1].x") != first
    )
