"""The page: its parts, and what happens when a person does something."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import gradio as gr

from mera_hf.app import views
from mera_hf.app.codes import Codes
from mera_hf.app.edits import edit
from mera_hf.app.patient import EnteredPatient
from mera_hf.app.reading import ChosenCut, ranked, read, scale
from mera_hf.app.stored_patients import StoredPatients


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mera_hf.modeling_mera import MeraForDiagnosis

SEXES = [("Female", "F"), ("Male", "M"), ("Not known", "")]
# Models read the age by decade
AGES = [("Not known", ""), *((f"{age} to {age + 9}", str(age)) for age in range(0, 90, 10)), ("90 and over", "90")]
LENGTHS = (10, 20, 50, 100)
EOV = "EOV"
# Only the page itself calls these. A call that comes while one runs waits; of several waiting, the last one runs
_EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "always_last"}
_QUICK = {**_EVENT, "queue": False}
_EACH = {**_QUICK, "trigger_mode": "multiple"}  # every call runs


def build_page(
    model: MeraForDiagnosis,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    stored: StoredPatients | None = None,
    public: bool = False,
) -> gr.Blocks:
    """
    The page of a checkpoint, to be launched by [`~mera_hf.app.launching.launch`].

    Args:
        model (`MeraForDiagnosis`): the checkpoint.
        tokenizer (`PreTrainedTokenizerBase`): of the checkpoint.
        name (`str`): name of the checkpoint, for the head of the page.
        stored (`StoredPatients`, *optional*): patients that can be loaded.
        public (`bool`, defaults to `False`): whether others reach the page, which then warns of entering real patients.
    """
    config = model.config
    assert config.descriptions is not None
    codes = Codes(config.codes, config.descriptions, model.ranking_head.log_prevalence.tolist())
    levels = {kind: list(found) for kind, found in (config.conformal or {}).items() if kind != "patients"}

    def find(query):
        return [
            {"code": code, "short": codes.short(code), "description": codes.descriptions[code]}
            for code in codes.find(str(query))
        ]

    with gr.Blocks(title="MERA: diagnoses of the next visit", analytics_enabled=False, fill_width=True) as page:
        patient = gr.State(EnteredPatient())
        reading = gr.State(None)
        chosen = gr.State(None)  # the code that is explained; `None` is the first of the ranking

        gr.HTML(views.header(name, len(codes), public), apply_default_css=False, js_on_load=views.script("header"))
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="patient"):
                visits = gr.HTML(
                    views.visits(EnteredPatient(), codes),
                    js_on_load=views.script("visits"),
                    server_functions=[find],
                    apply_default_css=False,
                )
                profile = _profile_inputs(stored) if config.use_profile else []
                number, others = _stored_inputs(stored)
            with gr.Column(elem_id="next"):
                with gr.Row(elem_id="options", visible=bool(levels)):
                    kinds: list[str | tuple[str, str]] = [
                        EOV,
                        *((views.percent(float(level), 0), level) for level in levels.get("codes", ())),
                    ]
                    coverage = gr.Radio(kinds, value=EOV, label="How far the set reaches")
                    of = gr.Radio(
                        [("a visit's codes", "codes"), ("whole visits", "visits")],
                        value="codes",
                        label="Covers a share of",
                        visible=False,
                    )
                # Gradio sends late calls with the previous event, so the cut is in the value, not in the event
                cut = gr.HTML(
                    {"html": "", "at": None},
                    html_template="${value.html}",
                    js_on_load=views.script("cut"),
                    apply_default_css=False,
                )
                ranking = gr.HTML(
                    views.ranking(None, EnteredPatient(), codes, None, {}),
                    js_on_load=views.script("ranking"),
                    apply_default_css=False,
                )
                lengths = [count for count in LENGTHS if count < len(codes)] or [len(codes)]
                length = gr.Radio(lengths, value=lengths[:2][-1], label="Codes to show", elem_id="length")
            with gr.Column(elem_id="reasons"):
                code = gr.HTML("", js_on_load=views.script("code"), apply_default_css=False)

        def show(patient, reading, chosen, cut, coverage, of, length):
            """The ranking as it stands."""
            if reading is None:
                return views.ranking(None, patient, codes, None, {})
            result = ranked(model, reading, _cut(cut["at"], coverage, of), length)
            first = chosen or result.rows[0].code
            record = views.record(reading, result, patient, name)
            reordered = config.rerank_depth if coverage == EOV else 0
            return views.ranking(result, patient, codes, first, record, reordered)

        def show_scale(reading, cut, coverage):
            here = reading is not None and coverage == EOV
            found = scale(model, reading, ChosenCut(cut["at"])) if here else None
            return {**cut, "html": views.cut(found, codes)}

        def rank(patient, *profile):
            """Run the model on the patient as entered."""
            if not patient.filled:
                return None
            sex, age, race = profile or ("", "", "")
            told = {"sex": sex or None, "age": float(age) if age else None, "race": race.strip() or None}
            return read(model, tokenizer, patient.row(told))

        def draw(patient, reading, chosen, cut, coverage, of, length):
            """The scale and the ranking; separate, since a person may move the cut while the model runs."""
            return show_scale(reading, cut, coverage), show(patient, reading, chosen, cut, coverage, of, length)

        def explain(patient, reading, chosen, cut, coverage, of):
            if reading is None:
                return ""
            of_code = chosen or ranked(model, reading, _cut(cut["at"], coverage, of), 1).rows[0].code
            explanation = model.explain(reading.row, tokenizer, codes=[of_code])
            return views.code(explanation, patient, codes, coverage != EOV and config.rerank_depth > 0)

        def change(patient, event: gr.EventData):
            patient, focus = edit(patient, event._data, codes.__contains__)
            return patient, views.visits(patient, codes, focus)

        def choose(patient, reading, cut, coverage, of, length, event: gr.EventData):
            chosen = event.code if event.code in codes else None
            return chosen, show(patient, reading, chosen, cut, coverage, of, length)

        def choose_cut(patient, reading, chosen, cut, coverage, of, length):
            return gr.update(visible=coverage != EOV), *draw(patient, reading, chosen, cut, coverage, of, length)

        options = [cut, coverage, of, length]
        shown = [patient, reading, chosen, *options]
        explains = {"fn": explain, "inputs": [patient, reading, chosen, cut, coverage, of], "outputs": code}

        def ranks(when):
            run = when(rank, [patient, *profile], reading, **_EVENT)
            run.then(draw, shown, [cut, ranking], **_QUICK).then(**explains, **_EVENT)

        ranks(visits.edit(change, patient, [patient, visits], **_EACH).then)
        for field in profile:
            ranks(field.input)
        for part in (cut.cut, length.input):
            part(show, shown, ranking, **_QUICK)
        for component in (ranking, code):
            component.choose(choose, [patient, reading, *options], [chosen, ranking], **_EACH).then(
                **explains, **_EVENT
            )
        for option in (coverage, of):
            option.input(choose_cut, shown, [of, cut, ranking], **_QUICK).then(**explains, **_EVENT)

        def load(number):
            """Put a stored patient on the page, with the first code of the ranking chosen."""
            assert stored is not None
            entered, own, left_out = stored.open(int(number), codes)
            if left_out:
                gr.Warning(f"{left_out} codes of this patient are left out: the model does not know them.")
            age = "" if own["age"] is None else str(min(int(own["age"]) // 10 * 10, 90))
            fields = [own["sex"] or "", age, own["race"] or ""] if profile else []
            return entered, None, views.visits(entered, codes), *fields

        for button, pick in others.items():
            picked = button.click(pick, number, number, **_QUICK)
            ranks(picked.then(load, number, [patient, chosen, visits, *profile], **_QUICK).then)
        if number is not None:
            ranks(number.submit(load, number, [patient, chosen, visits, *profile], **_QUICK).then)
    return page


def _profile_inputs(stored: StoredPatients | None) -> list:
    """Sex, age and race, as far as the model reads them."""
    with gr.Column(elem_id="profile"):
        sex = gr.Radio(SEXES, value="", label="Sex")
        with gr.Row():
            age = gr.Dropdown(AGES, value="", label="Age at the first visit", min_width=120)
            race: gr.Textbox | gr.Dropdown
            if stored is None:
                race = gr.Textbox(label="Race, as in the data", min_width=120)
            else:
                race = gr.Dropdown([("Not known", ""), *stored.races], value="", label="Race", min_width=120)
    return [sex, age, race]


def _stored_inputs(stored: StoredPatients | None) -> tuple:
    """The number of a stored patient, and the buttons beside it, each with how it changes the number."""
    if stored is None:
        return None, {}
    last = len(stored)
    with gr.Column(elem_id="stored"):
        gr.HTML(views.stored_head(stored.source), apply_default_css=False)
        number = gr.Number(value=1, minimum=1, maximum=last, precision=0, label=f"Test patient, 1 to {last:,}")
        with gr.Row():
            opened = gr.Button("Load", size="sm", min_width=60)
            following = gr.Button("Next", size="sm", min_width=60)
            drawn = gr.Button("Any", size="sm", min_width=60)
    ways = {
        opened: lambda number: number,
        following: lambda number: number % last + 1,
        drawn: lambda number: random.randint(1, last),
    }
    return number, ways


def _cut(moved: float | None, coverage: str, of: str) -> ChosenCut:
    if coverage == EOV:
        return ChosenCut(moved)
    return ChosenCut(coverage=float(coverage), coverage_of=of)
