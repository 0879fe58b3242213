"""One contradiction at a time, in a record of the present protocol: each is found, once, where it is."""

import json
import shutil
from collections.abc import Callable
from functools import reduce
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qgbench.metrics.table import Metric
from qgbench.plugins.registry import Catalogue, Known
from qgbench.run.record import content_hash, read_record
from qgbench.spec.addons import addon_settings
from qgbench.trust import verify_spec
from qgbench.trust.verify import Fault, verify_records

GOLDEN = (
    Path(__file__).parents[1] / "golden/records/present"
)  # qgbench run --protocol smoke --method fixmatch --qg --threads 1
Tamper = Callable[[Path], object]
J, T, L = "record.json", "images.csv", "labels.csv"
KEPT = json.loads((GOLDEN / J).read_text())
SOURCE = read_record(GOLDEN).provenance
FIRST = pd.read_csv(GOLDEN / L, dtype=str).iloc[0]  # row of an audited image
AUDITED, LABELLED = FIRST["id"], SOURCE.labelled_ids[0]


def kept(where: str, digits: int = 6) -> str:
    """Return a number of the golden record as a fault prints it."""
    value = reduce(lambda part, name: part[int(name) if name.lstrip("-").isdigit() else name], where.split("."), KEPT)
    return f"{value:.{digits}g}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN, tmp_path / "run", ignore=shutil.ignore_patterns("schema.json"))


def put(where: str, value: Any) -> Tamper:
    """Write another value into the JSON; `value` may be a function of the old one."""

    def change(run: Path) -> None:
        data = json.loads((run / "record.json").read_text())
        *parents, last = where.split(".")
        part = reduce(lambda part, name: part[int(name) if name.isdigit() else name], parents, data)
        last = int(last) if last.isdigit() else last
        part[last] = value(part[last]) if callable(value) else value
        (run / "record.json").write_text(json.dumps(data))

    return change


def rows(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Tamper:
    """Change the rows of a CSV, as text."""

    def write(run: Path) -> None:
        change(pd.read_csv(run / name, dtype=str, keep_default_na=False)).to_csv(run / name, index=False)

    return write


def cell(name: str, column: str, value: str) -> Tamper:
    return rows(name, lambda table: table.assign(**{column: [value, *table[column][1:]]}))


def both(*changes: Tamper) -> Tamper:
    return lambda run: [change(run) for change in changes]


def again(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table[:1]])


def faults_of(*runs: Path) -> list[Fault]:
    return [fault for fault in verify_records(runs) if fault.severity == "fault"]


def no_labels(run: Path) -> None:
    (run / "labels.csv").unlink()


def log(val_q_minus_dice: float) -> Tamper:
    """Put the run's log beside the record."""
    entry = {"step": 24, "val_q_minus_dice": val_q_minus_dice}
    return lambda run: (run / "log.jsonl").write_text(json.dumps(entry) + "\n")


def curve(run: Path) -> None:
    """Put the log of the run's validations beside the record."""
    entries = [{"step": step, "val_dice": dice} for step, dice in KEPT["val_dice"]]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def bind(run: Path) -> None:
    """Bind the rows to the run id that the record has now."""
    parts = [json.loads((run / J).read_text())["run_id"].encode(), (run / T).read_bytes(), (run / L).read_bytes()]
    put("rows", sha256(b"\n".join(parts)).hexdigest())(run)


def metric(**changes: Any) -> Tamper:
    """Add a metric that does not ship, 0.5 of each image."""
    own = Metric(name="bias", label="Bias", source="ab" * 32).model_copy(update=changes)
    averaged = put("summaries.student.means", lambda means: {**means, "bias": 0.5})
    return both(put("metrics", {"bias": own.model_dump()}), averaged, rows(T, lambda t: t.assign(bias="0.5")), bind)


SPEC = "spec: settings.{} is {!r}, expected {!r}".format


@pytest.mark.parametrize(
    ("tamper", "file", "said"),
    [
        # Audited labels
        (both(no_labels, put("pseudo_labels", [])), L, "audits: it is missing: a run audits"),
        (no_labels, L, "audits: it is missing"),
        (put("pseudo_labels", []), L, "audits: pseudo_labels: mae of agreement at 100% is null, the rows give"),
        (put("pseudo_labels.1.scores.g.pearson", 0.5), L, "audits: pseudo_labels: pearson of g at 50% is 0.5, "),
        (put("pseudo_labels.0.scores.g.spearman", 0.5), L, "spearman of g at 25% is 0.5, "),
        (put("pseudo_labels.2.scores.g.mae", 0.5), L, "mae of g at 75% is 0.5, "),
        (put("pseudo_labels.3.scores.confidence.spearman", 0.5), L, "spearman of confidence at 100% is 0.5, "),
        (put("pseudo_labels.4.scores.agreement.pearson", 0.5), L, "pearson of agreement, pooled is 0.5, "),
        (put("pseudo_labels.4.mean_dice", 0.5), L, f"is 0.5, the rows give {kept('pseudo_labels.4.mean_dice', 8)}"),
        (rows(L, lambda t: t[84:]), L, "checkpoints [0.5, 0.75, 1.0]; a run of 24 steps has"),
        (rows(L, lambda t: t[:-1]), L, "its checkpoints are not of the same images"),
        (rows(L, again), L, f"1 image ({AUDITED}) twice at one checkpoint"),
        (cell(L, "id", LABELLED), L, f"1 labelled image ({LABELLED}), which no audit looks at"),
        (cell(L, "id", "g000_0"), L, "1 test image (g000_0), which no audit looks at"),
        (cell(L, "g", "1.5"), L, f"g is missing or outside [0, 1]: 1 image ({AUDITED})"),
        (cell(L, "g", "good"), L, f"text where a number belongs: g is 'good' for {AUDITED}"),
        (rows(L, lambda t: t.assign(foo="0.5")), L, "columns that are not expected: foo"),
        (rows(L, lambda t: t.drop(columns="g")), L, "lacks the columns: g"),
        (rows(L, lambda t: t.replace(AUDITED, "nobody")), L, "1 image (nobody), which the committed split has not"),
        (put("pseudo_labels_on", "validation images"), L, "the committed split has not among the validation images"),
        (put("pseudo_labels_on", "the moon"), J, "pseudo_labels_on: String should match"),
        # Validation
        (put("best_val_step", None), J, "contradiction: best_val_step is None; val_dice gives 24"),
        (put("best_val_step", 18), J, "contradiction: best_val_step is 18; val_dice gives 24"),
        (put("best_val_step", 7), J, "best_val_step is 7; expected a step of val_dice"),
        (both(put("val_dice", []), put("best_val_step", None)), J, "val_dice is of steps []; the settings give [6,"),
        (put("val_dice", []), J, "best_val_step is 24; expected a step of val_dice"),
        (put("val_dice", lambda old: old[1:]), J, "val_dice is of steps [12, 18, 24]; the settings give [6, 12"),
        (put("val_dice", lambda old: old[::-1]), J, "val_dice is of steps [24, 18, 12, 6]; expected steps in order"),
        (both(curve, put("val_dice.1.1", 0.01)), J, "val_dice at step 12 is 0.01; log.jsonl says"),
        (both(curve, put("val_dice.0.1", 0.02), put("val_dice.2.1", 0.01)), J, "and 1 more differ"),
        # What an add-on and g leave
        (put("audit", None), J, "contradiction: audit is null; a run with a g has a value"),
        (put("guidance", None), J, "contradiction: guidance is null; a run of fixmatch+qw has a value"),
        (put("provenance.g_weights", None), J, "contradiction: provenance.g_weights is null; a run with a g"),
        (put("provenance.encoder", None), J, "contradiction: provenance.encoder is null; a run has a value"),
        (put("audit.image_dependent", False), J, f"False; image_dependence = {kept('audit.image_dependence')}"),
        (put("provenance.encoder", "hello"), J, "provenance.encoder: String should match"),
        (put("provenance.g_weights", "hello"), J, "'^[0-9a-f]{64}$', not 'hello'"),
        (put("provenance.g", "zz"), J, "provenance.g is 'zz'; expected phantom-n<labels>-<size>px-k0-<12 hex"),
        (put("provenance.g", "phantom-n12-64px-k1-2ac20115d1cd"), J, "px-k1-2ac20115d1cd'; expected phantom-n<la"),
        (put("provenance.g", "ph2-n12-64px-k0-2ac20115d1cd"), J, "is 'ph2-n12-64px-k0-2ac20115d1cd'; expected ph"),
        (put("provenance.g_weights", "0" * 64), J, "provenance.g_weights: Value error, expected the SHA-256 of someth"),
        (put("provenance.data", "ab" * 32), J, "data: the data's fingerprint is abababababab..., that of the phantom"),
        (put("guidance.mean_q", 0.4), J, "contradiction: guidance.mean_q is 0.4; kept_share = "),
        (put("guidance.kept_share", 0.01), J, f"guidance.mean_q is {kept('guidance.mean_q')}; kept_share = 0.01 "),
        (put("guidance.kept_share", 0.9), J, f"is {kept('guidance.effective_sample_size')}; expected no more than"),
        (put("guidance.val_q_minus_dice", 0.9), J, f"is 0.9; with the last val_dice = {kept('val_dice.-1.1')}"),
        (put("guidance.val_q_minus_dice", None), J, "guidance.val_q_minus_dice is null; a run with a g has a value"),
        (both(log(0.5), put("guidance.val_q_minus_dice", 0.6)), J, "val_q_minus_dice is 0.6; log.jsonl says 0.5"),
        # A metric that does not ship
        (metric(label="Dice"), J, "metrics: the metric 'bias' has the label of 'dice', 'Dice'; give it another"),
        # Ranges
        (put("guidance.val_q_minus_dice", 50.0), J, "guidance.val_q_minus_dice: Input should be less than"),
        (put("guidance.mean_q", -0.5), J, "guidance.mean_q: Input should be greater"),
        (put("guidance.effective_sample_size", 2.0), J, "guidance.effective_sample_size: Input should be less"),
        (put("audit.image_dependence", -3.0), J, "audit.image_dependence: Input should be greater"),
        (put("audit.weak_models.spearman", 1.5), J, "audit.weak_models.spearman: Input should be less than"),
        (put("audit.synthetic.masks", 0), J, "audit.synthetic.masks: Input should be greater"),
        (put("pseudo_labels.0.progress", 2.0), J, "pseudo_labels.0.progress: Input should be less than"),
        (put("val_dice.0.1", 5.0), J, "val_dice.0.1: Input should be less than or equal to 1.00001, not 5.0"),
        (put("times.evaluate", -1.0), J, "times.evaluate: Input should be greater than or equal to 0"),
        (put("peak_memory_mib", -1.0), J, "peak_memory_mib: Input should be greater than or equal to 0"),
        (put("summaries.student.missed", -1), J, "summaries.student.missed: Input should be greater than"),
        (put("summaries.student.groups", 121), J, "no more groups, and missed or spurious images, than 120"),
        (put("summaries.student.means.dice", 1.5), J, "summaries.student.means.dice is 1.5; expected no more than 1"),
        # Settings
        (put("settings.method.threshold", 0.5), J, SPEC("method.threshold", 0.5, 0.95)),
        (put("settings.method", {}), J, SPEC("method.apart", "no setting", False)),
        (put("settings.method.foo", 0.5), J, SPEC("method.foo", 0.5, "no setting")),
        (put("settings.qg.tau", 0.6), J, SPEC("qg.tau", 0.6, 0.5)),
        (put("settings.qg", {}), J, SPEC("qg.tau", "no setting", 0.5)),
        (put("settings.qg.foo", 1), J, SPEC("qg.foo", 1, "no setting")),
        (put("settings.protocol.foo", 1), J, SPEC("protocol.foo", 1, "no setting")),
        (put("settings.protocol.train.lr", 0.5), J, SPEC("protocol.train.lr", 0.5, 0.001)),
        (put("settings.protocol.arch", "unet"), J, "settings: Value error, expected no 'protocol.arch'"),
        (put("settings.surplus", {}), J, "settings: Value error, expected no 'surplus'"),
        # Networks
        (put("summaries", lambda s: s | {"net7": s["student"]}), J, "summaries.net7: expected"),
        (put("summaries", lambda s: s | {"teacher": s["student"]}), J, "summaries are of student, teacher; "),
        (put("summaries", lambda s: s | {"best_val": s["student"]}), J, "summaries are of best_val, student"),
        (put("rows", "ab" * 32), T, "rows: rows is abababababab..., "),
        (cell(T, "confidence", "0.123"), T, "rows: rows is "),
        (cell(T, "q", "0.123"), T, "rows: rows is "),
        # Names
        (put("read_from", 1), J, "read_from: Extra inputs are not permitted, not 1"),
        (put("spec.qg_mode", "foo"), J, "spec: unknown addon 'foo'. Known: qar, qw, refine, select."),
        (put("spec.qg_score", "foo"), J, "spec: unknown score 'foo'. Known: agreement, both, confidence,"),
        (put("spec.method", "foo"), J, "spec: unknown method 'foo'."),
        (put("spec.method", "lab.py:Mine"), J, "spec: unknown method 'lab.py:Mine'."),
        (put("spec.arch", "foo"), J, "spec: unknown arch 'foo'."),
        # Rows
        (rows(T, lambda t: t.assign(foo="1")), T, "has columns that are not expected: foo"),
        (rows(T, lambda t: t.drop(columns="class")), T, "lacks the columns: class"),
        (lambda run: twice_a_column(run / T), T, "has columns that are not expected: confidence"),
        (cell(T, "n_ref", "many"), T, "text where a number belongs: n_ref is 'many' for g000_0"),
        (rows(T, again), T, "image ids: 1 image (g000_0) in more than one row of a class"),
        (rows(T, lambda t: pd.concat([t, t[:1].assign(id="x", group="x")])), T, "test images: 121 images"),
        (rows(T, lambda t: t[1:]), T, "test images: 119 images"),
    ],
)  # fmt: skip
def test_a_contradiction_is_found_once_and_where_it_is(run: Path, tamper: Tamper, file: str, said: str) -> None:
    tamper(run)
    (fault,) = faults_of(run)
    assert fault.path == run / file
    assert said in f"{fault.rule}: {fault.text}".replace(f"{run}/", "")


def twice_a_column(file: Path) -> None:
    lines = file.read_text().splitlines()
    file.write_text("".join(f"{line},{line.rpartition(',')[2]}\n" for line in lines))


def test_the_record_as_it_is_has_no_fault(run: Path) -> None:
    assert faults_of(run) == []


def of_a_plugin(run: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> list[str]:
    """Say that the method is of a file in the folder where verify runs; return what is noted of it."""
    monkeypatch.chdir(run)
    put("spec.source", source)(run)
    put("spec.method", "lab.py:Mine")(run)
    put("run_id", read_record(run).spec.id)(run)
    put("settings.method.threshold", 0.5)(run)
    bind(run)
    assert faults_of(run) == []
    return [fault.text for fault in verify_records([run]) if fault.rule == "outside code"]


def test_a_plugin_file_is_hashed_and_never_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "lab.py").write_text("raise SystemExit('this file was run')\n")
    source = sha256((run / "lab.py").read_bytes()).hexdigest()
    (note,) = of_a_plugin(run, monkeypatch, source)
    assert note.endswith(
        f"{source}, which the file here has, too; it is not run to verify: its settings are not checked"
    )
    (note,) = of_a_plugin(run, monkeypatch, "0" * 64)
    assert note.endswith(f"{'0' * 64}, and what is here has another, {source}: it was not compared")
    (run / "lab.py").unlink()
    (note,) = of_a_plugin(run, monkeypatch, source)
    assert note.endswith(f"{source}, which is not among the names and files here: it was not compared")


def test_a_metric_is_compared_with_the_installed_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric()(run)
    assert faults_of(run) == []
    (note,) = [fault.text for fault in verify_records([run]) if fault.rule == "outside code"]
    told = f"its source is {'ab' * 32}, which is not among the names and files here: it was not compared"
    assert note == f"the metric 'bias' does not ship with qgbench; {told}"
    installed = Metric(name="bias", label="Bias", measure=lambda pred, ref, spacing: 0.5)
    monkeypatch.setattr(verify_spec, "catalogue", lambda kind: Catalogue(kind, (Known("bias", "lab", "bias"),), {}))
    monkeypatch.setattr(verify_spec, "source", lambda kind, name: "ab" * 32)
    monkeypatch.setattr(verify_spec, "load", lambda kind, name: installed)
    found = dict(verify_spec.metrics_that_differ(read_record(run)))
    assert found == {}
    put("metrics.bias.higher_is_better", False)(run)
    found = dict(verify_spec.metrics_that_differ(read_record(run)))
    assert found == {"metrics": "metrics.bias.higher_is_better is False; the installed one's is True"}


def test_one_g_with_two_kinds_of_weights(run: Path) -> None:
    other = shutil.copytree(run, run.with_name("twin"))
    both(put("provenance.g_weights", "ab" * 32), put("spec.overrides", {"method.threshold": 0.5}))(other)
    both(put("settings.method.threshold", 0.5), put("run_id", read_record(other).spec.id), bind)(other)
    text = f"provenance.g_weights of {SOURCE.g} is abababababab..., and {str(SOURCE.g_weights)[:12]}... in "
    assert [(fault.rule, fault.text) for fault in faults_of(run, other)] == [("g", f"{text}{run}/record.json")]
    put("provenance.hardware.processor", "another one")(other)  # where honest weights may differ
    assert faults_of(run, other) == []
    assert "g" in {fault.rule for fault in verify_records([run, other])}


def test_a_copy_is_one_with_its_labels(run: Path) -> None:
    other = shutil.copytree(run, run.with_name("other"))
    assert {fault.rule for fault in verify_records([run, other])} == {"copy", "gap", "twin"}
    (other / L).write_text((other / L).read_text().replace(FIRST["dice"], FIRST["dice"][:-1], 1))
    bind(other)
    assert {fault.rule for fault in faults_of(run, other)} == {"two records"}
    assert content_hash(run / J) != content_hash(other / J)


def test_what_selection_takes_away_says_nothing_of_each_quality() -> None:
    """High qualities of which few are kept contradict QW alone, where every one above tau has a weight."""
    record = read_record(GOLDEN)
    assert record.guidance is not None
    few = {"mean_q": 0.9, "kept_share": 0.1, "effective_sample_size": 0.1}
    record = record.model_copy(update={"guidance": record.guidance.model_copy(update=few)})
    for mode, faults in (("qw", ["contradiction"]), ("qw+select", [])):
        spec = record.spec.model_copy(update={"qg_mode": mode, "qg_score": "g", "overrides": {}})
        found = verify_spec._weights(record.model_copy(update={"spec": spec}), addon_settings(spec))
        assert [rule for rule, _ in found] == faults
