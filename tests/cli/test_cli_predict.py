"""`mera predict`: how visits are written, what is refused, and what is shown."""

import json
import shutil

from cohort import visit_rows, write_visits
from command import TINY, mera, succeed, train
from transformers import AutoModel

from mera_hf.cli.predict import as_table, read_visits


def predict(folder, visits, *options):
    return mera("predict", folder / "model", "--visits", visits, *options)


def refused(run, *words):
    assert run.status == 2 and run.out == ""
    lines = [line for line in run.err.splitlines() if line.startswith("mera predict: ")]
    assert len(lines) == 1 and "Traceback" not in run.err
    for word in words:
        assert word in lines[0]


def test_json_holds_ranking_probabilities_and_the_cut(small):
    run = predict(small, "250.00 401.9; 428.0 584.9", "--sex", "F", "--age", "70", "--top-k", "5", "--json")
    result = json.loads(run.out)
    assert result["visits"] == [["ICD9CM:250.00", "ICD9CM:401.9"], ["ICD9CM:428.0", "ICD9CM:584.9"]]
    ranking = result["ranking"]
    assert [row["rank"] for row in ranking] == [1, 2, 3, 4, 5] and len({row["code"] for row in ranking}) == 5
    assert [row["above_eov"] for row in ranking] == [row["rank"] <= result["set_size"] for row in ranking]
    history = {code for visit in result["visits"] for code in visit}
    for row in ranking:
        assert 0 <= row["probability"] <= 1 and row["description"]
        assert row["in_history"] == (row["code"] in history)


def test_the_ranking_is_the_one_of_the_model_and_longer_than_the_codes_is_all_of_them(small):
    shown = json.loads(predict(small, "428.0", "--top-k", "1000", "--json").out)["ranking"]
    codes = AutoModel.from_pretrained(small / "model").config.codes
    assert sorted(row["code"] for row in shown) == sorted(codes)


def test_codes_come_in_any_spelling(small):
    wanted = predict(small, "250.00 401.9 038.9; V15.82", "--json")
    assert wanted.status == 0
    for visits in ("25000 4019 0389; v1582", "250.00, 401.9, 38.9; V1582;", "ICD9CM:250.00 4019 038.9;ICD9CM:V15.82"):
        assert predict(small, visits, "--json").out == wanted.out


def test_profile_changes_what_is_read(small):
    rankings = {predict(small, "428.0", *options, "--json").out for options in ((), ("--sex", "M"), ("--age", "35"))}
    assert len(rankings) == 3


def test_the_table_shows_where_eov_stands():
    row = {
        "code": "ICD9CM:428.0",
        "description": "Heart failure",
        "probability": 0.5,
        "above_eov": True,
        "in_history": True,
    }
    rows = [{**row, "rank": rank} for rank in (1, 2)]

    def lines(size, depth=0, unread=0):
        result = {"visits": [["ICD9CM:428.0"]], "unread_visits": unread, "set_size": size}
        result |= {"ordered_for_weighted_f1": depth, "ranking": rows}
        return as_table(result).splitlines()

    assert lines(2)[0] == "history: ICD9CM:428.0"
    assert "(in the history)" in lines(2)[3] and "50.0%" in lines(2)[3]
    assert lines(0)[3].endswith("no code is likely enough to be in the predicted set")
    assert lines(1)[4].endswith("EOV: the code above is the predicted set")
    assert lines(2)[5].endswith("EOV: the 2 codes above are the predicted set")
    assert "EOV stands behind 7 codes" in lines(7)[5]
    assert "The first 10 stand in the order of their worth" in lines(2, 10)[-2]
    assert not any("worth for weighted F1" in line for line in lines(2))
    assert lines(2, unread=1)[1] == "The oldest visit was not read: the history is longer than this model reads."
    assert lines(2, unread=12)[1].startswith("The oldest 12 visits were not read") and lines(2)[1] == ""


def test_visits_that_are_not_read_are_counted(small, tmp_path):
    shutil.copytree(small / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "max_length": 12}))
    visits = "250.00 401.9; 428.0 584.9; 428.0 486"  # 3 tokens of head and mark, and 4 of each visit
    result = json.loads(predict(tmp_path, visits, "--json", "--explain", "1").out)
    assert result["unread_visits"] == result["explanation"]["unread_visits"] == 1
    assert (
        "The oldest visit was not read: the history is longer than this model reads." in predict(tmp_path, visits).out
    )
    assert "not read" not in predict(tmp_path, "428.0 584.9; 428.0 486").out
    output = ("--output-dir", tmp_path / "rankings", "--max-length", "11")
    said = succeed("predict", tmp_path / "model", "--dataset", small / "dataset", *output).out
    summary = json.loads((tmp_path / "rankings" / "predict.json").read_text())
    patients, visits = summary["patients_with_unread_visits"], summary["unread_visits"]
    assert summary["max_length"] == 11 and 0 < patients <= visits
    assert f"longer histories than are read: {patients} patients, whose {visits} oldest visits were not read" in said


def test_the_table_goes_to_standard_output(small):
    run = predict(small, "428.0", "--top-k", "3")
    assert run.out.startswith("history: ICD9CM:428.0\n") and "not clinical decisions" in run.out
    assert sum(line[:4].strip().isdigit() for line in run.out.splitlines()) == 3


def test_explain_says_what_moved_the_first_codes(small):
    visits = "250.00 401.9; 428.0 584.9"
    plain = predict(small, visits, "--sex", "F", "--top-k", "5")
    run = predict(small, visits, "--sex", "F", "--top-k", "5", "--explain")
    assert run.status == 0 and run.out.startswith(plain.out.rstrip("\n")) and "explaining" not in run.err
    lines = run.out[len(plain.out) :].splitlines()
    assert max(map(len, lines)) <= 100
    heads = [line.split()[1] for line in lines if line.startswith("rank ")]
    assert heads == ["1:", "2:", "3:"]
    assert any("visit 2, the last: 428.0 584.9" in line for line in lines)
    assert lines[-1] == "This says what the model used, not what causes a disease."


def test_the_explanation_in_json_is_about_the_ranking_beside_it(small):
    result = json.loads(predict(small, "250.00 401.9; 428.0 584.9", "--explain", "2", "--json").out)
    explanation, ranking = result["explanation"], result["ranking"]
    assert explanation["visits"] == result["visits"] and explanation["set_size"] == result["set_size"]
    assert [code["code"] for code in explanation["codes"]] == [row["code"] for row in ranking[:2]]
    ranks = {row["code"]: row["rank"] for row in ranking}
    # What is said of a visit is what `mera predict` says without it
    without = json.loads(predict(small, "428.0 584.9", "--top-k", "1000", "--json").out)
    left = {row["code"]: row for row in without["ranking"]}
    for code in explanation["codes"]:
        assert code["rank"] == ranks[code["code"]] and code["path"][0]["level"] == "chapter"
        (visit,) = (part for part in code["effects"] if part["kind"] == "visit" and part["visits"] == [1])
        assert visit["rank_without"] == left[code["code"]]["rank"]
        assert visit["set_size_without"] == without["set_size"]
        assert abs(code["probability"] - visit["probability"] - left[code["code"]]["probability"]) < 1e-4
    assert "explanation" not in without


def test_a_subcategory_counts_as_the_category_that_the_model_knows():
    assert read_visits("250.03 428.1 428; 4280", "ICD9CM", ["ICD9CM:250", "ICD9CM:428"]) == [
        ["ICD9CM:250", "ICD9CM:428"],
        ["ICD9CM:428"],
    ]
    # The nearest code above, where the model has several
    assert read_visits("250.03", "ICD9CM", ["ICD9CM:250", "ICD9CM:250.0"]) == [["ICD9CM:250.0"]]


def test_what_cannot_be_read_is_refused_by_visit_and_value(small):
    refused(predict(small, "428.0; 999999"), "visit 2", "'999999'")
    refused(predict(small, "428.0;;486"), "visit 2 of 3 is empty")
    refused(predict(small, "  "), "visit 1 of 1 is empty")
    refused(predict(small, "E11.65"), "visit 1", "ICD-9-CM")
    refused(predict(small, "ICD10CM:E11.65"), "visit 1", "is not one of the 26 codes")
    refused(predict(small, "ICD11:5A11"), "'ICD11:5A11'")
    refused(predict(small, "733.00"), "ICD9CM:733.00", "not one of the 26 codes", "leave it out")
    refused(predict(small, "428.0", "--icd", "10"), "this model knows ICD9CM codes only")
    refused(predict(small, "428.0", "--top-k", "0"), "`--top-k` is 0")
    refused(predict(small, "428.0", "--top-k", "-1"), "`--top-k` is -1")
    refused(predict(small, "428.0", "--explain", "0"), "`--explain` is 0; it must be 1 or more")
    refused(predict(small, "428.0", "--age", "-3"), "`--age` is -3")
    refused(predict(small, "428.0", "--age", "nan"), "`--age` is nan")


def test_a_model_of_both_versions_asks_which(work):
    folder, _ = work("mimic4")
    refused(predict(folder, "428.0"), "'428.0'", "--icd 9", "--icd 10")
    assert json.loads(predict(folder, "428.0", "--icd", "9", "--json").out)["visits"] == [["ICD9CM:428.0"]]
    assert json.loads(predict(folder, "I10", "--icd", "10", "--json").out)["visits"] == [["ICD10CM:I10"]]
    both = json.loads(predict(folder, "ICD9CM:428.0; ICD10CM:I10", "--json").out)
    assert both["visits"] == [["ICD9CM:428.0"], ["ICD10CM:I10"]]


def test_a_model_of_icd_10_reads_icd_10_without_being_told(tmp_path):
    swap = {"250.00": "E11.9", "401.9": "I10", "428.0": "I50.9", "584.9": "N17.9", "486": "J18.9"}
    rows = [[*row[:3], swap[row[3]], "10", *row[5:]] for row in visit_rows(60) if row[3] in swap]
    write_visits(tmp_path / "visits.csv", rows)
    succeed("prepare", "visits_csv", "--data-dir", tmp_path / "visits.csv", "--output-dir", tmp_path / "dataset")
    train(tmp_path / "dataset", tmp_path / "model", None, "--from-scratch", TINY, "--max-steps", "1")
    assert json.loads(predict(tmp_path, "i50.9; E119", "--json").out)["visits"] == [
        ["ICD10CM:I50.9"],
        ["ICD10CM:E11.9"],
    ]
    refused(predict(tmp_path, "428.0"), "ICD-9-CM", "set version 9")
    refused(predict(tmp_path, "428.0", "--icd", "9"), "knows ICD10CM codes only")
