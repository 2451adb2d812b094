import pytest
from datasets import Dataset, Value

from mera_hf.data.schema import DRG_VISITS_FEATURES, VISITS_FEATURES, check_visits
from mera_hf.errors import InputError


def visit(codes, time=None):
    return {"codes": codes, "time": time, "text": None}


def rows(*visits, patients=None):
    profile = {"sex": None, "age": None, "race": None}
    names = patients or [f"p{i}" for i in range(len(visits))]
    columns = {"patient_id": names, "profile": [profile] * len(visits), "visits": list(visits)}
    return Dataset.from_dict(columns, features=VISITS_FEATURES)


GOOD = [visit(["ICD9CM:486"], "2020-01-01"), visit(["ICD10CM:I10", "ICD9CM:V15.82"], "2020-01-01T08:00:00")]


def test_good_rows_pass():
    check_visits(rows(GOOD, [visit(["ICD9CM:486"])]))
    check_visits(rows(GOOD).select([]))


@pytest.mark.parametrize(
    "dataset,message",
    [
        (rows(GOOD).remove_columns("profile"), "no column `profile`.*mera prepare"),
        (
            rows(GOOD).cast_column("patient_id", Value("large_string")),
            r"`patient_id` has the type.*cast\(VISITS_FEATURES\)",
        ),
        (rows(GOOD, GOOD, patients=["a", None]), "Row 1: `patient_id` is empty"),
        (rows(GOOD, GOOD, patients=["a", "a"]), "Row 1: the patient of this row has another row.*Merge"),
        (rows(GOOD, []), "Row 1: the patient has no visits"),
        (rows(GOOD, [*GOOD, visit([])]), "Row 1: visit 2 has no codes. Remove the visit"),
        (rows(GOOD, GOOD[::-1]), "Row 1: visit 1 has the time '2020-01-01', which is before.*Sort"),
        (rows([visit(["250.23"])]), "Row 0: visit 0 has the code '250.23'.*version.*ICD9CM:250.23"),
        (rows([visit([None])]), "Row 0: visit 0 has the code None"),
    ],
)
def test_faults_name_the_row_and_the_fix(dataset, message):
    with pytest.raises(InputError, match=message):
        check_visits(dataset)


def graded(severity):
    columns = {**rows(GOOD, GOOD).to_dict(), "visits": [GOOD, [visit | {"drg_severity": severity} for visit in GOOD]]}
    return Dataset.from_dict(columns, features=DRG_VISITS_FEATURES)


def test_visits_may_have_a_drg_severity():
    for severity in (1, 4, None):
        check_visits(graded(severity))
    for severity in (0, 5):
        with pytest.raises(
            InputError, match=rf"Row 1: visit 0 has the DRG severity {severity}\. Write 1 \(minor\) to 4"
        ):
            check_visits(graded(severity))


def test_a_selection_is_checked_and_not_the_whole_table():
    bad = rows(GOOD, [], GOOD)
    check_visits(bad.select([0, 2]))
    with pytest.raises(InputError, match="Row 1:"):
        check_visits(bad.select([2, 1]))
