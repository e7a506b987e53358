"""The page of a hallucination run, from tables made here."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from selenium import webdriver

from stratoscope.pipelines.hallucination import HallucinationConfig
from stratoscope.pipelines.hallucination.report import build_page
from stratoscope.results import MUTED, Manifest, Run, Storage, write_table
from stratoscope.results.report import render
from stratoscope.tables.hallucination import AgreementRow, HallucinationScoreRow, RandomSetRow, SeparationRow
from tests.pages import page_faults

NUM_LAYERS, NUM_QUESTIONS = 8, 24
OVER_RANDOM = ("over_random", "over_random_low", "over_random_high")
NONE_FLAGGED = "no layer is flagged (no difference could be shown with so few questions (the least possible p is 0.11))"


def score_rows(dataset: str, tap: str, flagged: Sequence[int]) -> list[HallucinationScoreRow]:
    return [
        HallucinationScoreRow(
            dataset=dataset, layer=layer, tap=tap, part="answer", definition="eavss", variance="elementwise",
            epsilon_kind="absolute", epsilon=0.01, num_questions=NUM_QUESTIONS, hsav=0.1, hss=0.1,
            eavss=1.0 if layer in flagged else 0.2, eavss_length_adjusted=0.2, direction="more",
            propensity=2.0 if layer in flagged else 0.5, ci_low=0.1, ci_high=1.2, null_band=0.3, p_value=0.01,
            p_value_length_adjusted=0.01, flagged=layer in flagged,
        )
        for layer in range(NUM_LAYERS)
    ]  # fmt: skip


def separation_rows(dataset: str, tap: str, over_random: float) -> list[SeparationRow]:
    """AUROC of sets of layers, of each layer, and of features without layers."""
    random = {"over_random": over_random, "over_random_low": over_random - 0.05, "over_random_high": over_random + 0.05}
    values = [("flagged", tap, None, 0.8, random), ("random", tap, None, 0.7, {}), ("all", tap, None, 0.82, {})]
    values += [("layer", tap, layer, 0.52 + 0.05 * layer, {}) for layer in range(NUM_LAYERS)]
    values += [("answer_length", None, None, 0.55, {}), ("likelihood", None, None, 0.75, {})]
    nulls = dict.fromkeys(OVER_RANDOM)
    return [
        SeparationRow(
            dataset=dataset, tap=of_tap, features=name, layer=layer, num_layers=2.0, auroc=auroc,
            ci_low=auroc - 0.06, ci_high=auroc + 0.06, detectable=0.07, share_of_random_below=0.5, **nulls | over,
        )
        for name, of_tap, layer, auroc, over in values
    ]  # fmt: skip


def hallucination_run(
    folder: Path, flagged: dict[tuple[str, str], Sequence[int]], *, over_random: float = 0.1, random_sets: int = 20
) -> Run:
    """A run with the flagged layers of each data set and tap."""
    storage = Storage(str(folder))
    random = [
        RandomSetRow(dataset=dataset, tap=tap, draw=draw, auroc=0.6 + 0.01 * draw)
        for dataset, tap in flagged
        for draw in range(random_sets)
    ]
    scores = [row for (dataset, tap), layers in flagged.items() for row in score_rows(dataset, tap, layers)]
    separation = [row for dataset, tap in flagged for row in separation_rows(dataset, tap, over_random)]
    write_table(storage, "hallucination_scores", HallucinationScoreRow.table(scores))
    write_table(storage, "separation", SeparationRow.table(separation))
    write_table(storage, "random_sets", RandomSetRow.table(random))
    write_table(storage, "agreement", AgreementRow.table([]))
    config = HallucinationConfig(model={"source": "owner/small"}, separation={"random_sets": random_sets})
    manifest = Manifest("hallucination", "run", config.model_dump(mode="json"), 0, fingerprints={"weights": "w"})
    manifest.counts = dict.fromkeys(("scored", "errors", "answers", "tokens", "nonfinite", "shards_computed"), 0)
    dataset = {"format": "pairs", "wrong_origin": "given", "read": 24, "kept": 24, "unusable": 0, "duplicates": 0}
    names = dict.fromkeys(name for name, _ in flagged)
    manifest.facts = {
        "architecture": "Llama", "num_layers": NUM_LAYERS, "num_parameters": 1, "device": "cpu", "dtype": "float32",
        "most_actors": 1, "threads_per_actor": 1, "num_shards": 1, "datasets": [{"name": n, **dataset} for n in names],
        "verdicts": [f"{name}, tap {tap}: {NONE_FLAGGED}." for name, tap in flagged],
    }  # fmt: skip
    return Run(storage, manifest)


def test_flagged_layers_are_in_the_title_and_the_rest_is_grey(tmp_path: Path, browser: webdriver.Chrome) -> None:
    page = build_page(hallucination_run(tmp_path, {("quiz", "update"): [4, 5, 6]}))
    assert page.title == "small: layers 4-6 (update) react to wrong answers"
    better, without = page.verdict.paragraphs
    assert better.startswith(
        "Flagged layers separate wrong from right answers better than random layers do (AUROC 0.80, "
    )
    assert without == "AUROC there without any layer: the likelihood of an answer 0.75 and its length 0.55."
    (figure,) = page.verdict.figures
    colours = figure.data[-1].marker.color
    assert [layer for layer in range(NUM_LAYERS) if colours[layer] != MUTED] == [4, 5, 6]
    path = tmp_path / "report.html"
    path.write_bytes(render(page))
    assert page_faults(browser, path) == []


def test_without_flagged_layers_the_page_says_what_could_be_shown(tmp_path: Path) -> None:
    page = build_page(hallucination_run(tmp_path, {("quiz", tap): [] for tap in ("block", "update", "mlp")}))
    assert page.title == f"small: no layer could be flagged with {NUM_QUESTIONS} questions"
    assert "(the least possible p is 0.11)" in page.verdict.paragraphs[0]
    assert page.verdict.paragraphs[-1] == "1 more are under 'Verdicts in words'."


def test_many_data_sets_are_one_map_and_one_sentence(tmp_path: Path) -> None:
    flagged = {("quiz", "block"): [1], ("quiz", "update"): [1, 2], ("facts", "block"): [], ("facts", "update"): [2]}
    page = build_page(hallucination_run(tmp_path, flagged, over_random=0.0))
    assert (
        page.title
        == "small: layer 1 (block) and layers 1 and 2 (update) react to wrong answers in at least one of 2 data sets"
    )
    assert page.verdict.paragraphs[0].startswith("Layers are flagged in 3 of 4 pairs of data set and tap; ")
    assert "no better in 3" in page.verdict.paragraphs[0]
    (figure,) = page.verdict.figures
    _, coloured = figure.data
    assert [[layer for layer, z in enumerate(row) if z is not None] for row in coloured.z] == [[1], [1, 2], [], [2]]


def test_few_random_sets_allow_no_claim(tmp_path: Path) -> None:
    page = build_page(hallucination_run(tmp_path, {("quiz", "update"): [4]}, random_sets=3))
    assert page.title == "small: layer 4 (update) reacts to wrong answers"
    assert "no difference could be shown with 3 random sets" in page.verdict.paragraphs[0]


def test_nothing_is_claimed_where_nothing_was_compared(tmp_path: Path) -> None:
    """No fold flags a layer in the one pair, and in the other one some do."""
    none = {"num_layers": 0.0, "auroc": 0.5, "detectable": None} | dict.fromkeys(OVER_RANDOM, 0.0)

    def first_screen(name: str, pairs: dict) -> str:
        run = hallucination_run(tmp_path / name, pairs)
        rows = SeparationRow.read(run.table("separation"))
        rows = [replace(r, **none) if r.features == "flagged" and r.dataset == "d" else r for r in rows]
        write_table(run.storage, "separation", SeparationRow.table(rows))
        return "\n".join(build_page(run).verdict.paragraphs)

    text = first_screen("both", {("d", "update"): [1], ("e", "update"): [1]})
    assert "against random layers, they separate wrong from right answers better in 1 (at best AUROC 0.80" in text
    assert ", and 1 cannot be compared." in text
    text = first_screen("one", {("d", "update"): [1]})
    assert "Layers are flagged, but nothing can be compared with random layers" in text
    assert "no better" not in text


def test_axes_of_auroc_hold_all_intervals(tmp_path: Path) -> None:
    page = build_page(hallucination_run(tmp_path, {("quiz", "update"): [4]}))
    (section,) = [section for section in page.sections if section.heading.startswith("Separation")]
    sets, layers = section.figures
    assert sets.layout.xaxis.range[0] < 0.49
    assert sets.layout.xaxis.range[1] > 0.88
    low, high = layers.layout.yaxis.range
    assert low < 0.46
    assert 0.93 < high < 1.0
