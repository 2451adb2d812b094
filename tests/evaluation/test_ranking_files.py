import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mera_hf.errors import InputError
from mera_hf.evaluation.rankings import files as rankings
from mera_hf.evaluation.rankings.files import complete_order, read_rankings, write_rankings
from mera_hf.evaluation.rankings.ranked import Cut, ModelRanking


IDS = ["P17", "P18", "P19"]
STRING = pa.string()
CODES = [f"ICD9CM:{code}" for code in ("250.00", "401.9", "428.0", "486", "V58.67")]


def write(path, ids=IDS, lists=([0, 1], [4], []), sizes=(2, 0, 0), text=STRING, **columns):
    names = [None if codes is None else [CODES[code] for code in codes] for codes in lists]
    table = {"patient_id": pa.array(ids, text), "codes": pa.array(names, pa.list_(text))}
    if sizes is not None:
        table["set_size"] = pa.array(sizes, pa.int32())
    pq.write_table(pa.table({**table, **columns}), path)
    return path


def refused(path, says):
    with pytest.raises(InputError, match=says) as caught:
        read_rankings(path, IDS, CODES)
    assert not any(name in str(caught.value) for name in (*IDS, "P99"))


def test_round_trip_of_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(rankings, "BLOCK", 4)
    rng = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(11)]
    order = np.stack([rng.permutation(5) for _ in ids]).astype(np.int32)
    sizes, probabilities = rng.integers(0, 6, size=11), rng.random((11, 5), dtype=np.float32)
    path = tmp_path / "rankings.parquet"
    unread = rng.integers(0, 3, size=11)
    ranking = ModelRanking(order, Cut(sizes, "EOV"), probabilities, np.log(probabilities), np.zeros(11), unread)
    write_rankings(path, ids, CODES, ranking)
    assert [file.name for file in tmp_path.iterdir()] == ["rankings.parquet"]
    table = pq.read_table(path)
    assert table["codes"][3].as_py() == [CODES[code] for code in order[3]]
    assert table["probabilities"][3].as_py() == probabilities[3].tolist()
    assert table["unread_visits"].to_pylist() == unread.tolist()
    shuffled = rng.permutation(11)
    got = read_rankings(path, [ids[i] for i in shuffled], CODES)
    np.testing.assert_array_equal(got.order, order[shuffled])
    np.testing.assert_array_equal(got.set_sizes, sizes[shuffled])
    assert got.cut.by == "file"


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_codes_that_are_not_listed_come_last_in_order(tmp_path, text):
    path = write(tmp_path / "r.parquet", ["P19", "P17", "P18"], ([3, 0], [4], []), (2, 0, 0), text)
    got = read_rankings(path, IDS, CODES)
    assert got.order.tolist() == [[4, 0, 1, 2, 3], [0, 1, 2, 3, 4], [3, 0, 1, 2, 4]]
    assert got.set_sizes.tolist() == [0, 0, 2]


def test_complete_order():
    got = complete_order(np.array([2, 1, 0]), np.array([1, 0, 2]), 4)
    assert got.tolist() == [[2, 0, 1, 3], [0, 1, 2, 3], [1, 0, 2, 3]] and got.dtype == np.int32


def test_without_set_sizes(tmp_path):
    for sizes in (None, (None, None, None)):
        assert read_rankings(write(tmp_path / "r.parquet", sizes=sizes), IDS, CODES).set_sizes is None
    refused(write(tmp_path / "r.parquet", sizes=(1, None, None)), "`set_size` is null in 2 of 3 rows")


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["P17", "P18"], "exactly the 3 patients of the split, one row each: 1 are missing"),
        (["P17", "P18", "P19", "P99"], "1 rows are of other patients"),
        (["P17", "P18", "P19", "P17"], "1 rows repeat a patient"),
        (["P17", "P99", "P99", "P17"], "2 are missing, 2 rows are of other patients, 1 rows repeat a patient"),
        ([], "3 are missing"),
        (["P17", "P18", None], "1 are missing, 1 rows are of other patients"),
    ],
)
def test_other_patients_are_counted_and_not_named(tmp_path, ids, says):
    refused(write(tmp_path / "r.parquet", ids, [[0]] * len(ids), [1] * len(ids)), says)


def test_bad_lists(tmp_path, monkeypatch):
    path = tmp_path / "r.parquet"
    refused(write(path, lists=([0], [1, 2, 1], [0]), sizes=(1, 1, 1)), r"r.parquet, row 1 .* lists a code twice")
    refused(write(path, lists=([0], [1], None), sizes=(1, 1, 1)), "row 2 .* `codes` is null")
    refused(write(path, lists=([0], [1], [0]), sizes=(1, 2, 1)), "row 1 .* `set_size` is 2, but the row lists 1 codes")
    refused(write(path, lists=([0], [1], [0]), sizes=(1, 1, -1)), "row 2 .* `set_size` is -1")
    monkeypatch.setattr(rankings, "BLOCK", 1)  # rows are counted over blocks, and unknown codes too
    refused(write(path, lists=([0], [1], [0]), sizes=(1, 1, 2)), "row 2 .* `set_size` is 2")
    names = pa.array([["250.00", CODES[1]], ["250.00"], ["E11.9"]])
    refused(write(path, codes=names), "2 distinct codes .3 entries. are not among the 5 codes of the dataset, such as")


@pytest.mark.parametrize("sizes", [(2, 1, 0), (9, 1, 0)], ids=["fits", "beyond the list"])
@pytest.mark.parametrize("ids", [IDS, ["P17", "P18", "P99"]], ids=["all", "others"])
def test_files_of_predict_say_what_they_are(tmp_path, ids, sizes):
    path = write(tmp_path / "part-00000.parquet", ids, sizes=sizes)
    pq.write_table(pq.read_table(path).replace_schema_metadata(rankings.PREDICTED), tmp_path / "moved.parquet")
    refused(tmp_path / "moved.parquet", "moved.parquet holds rankings of `mera predict`.*the visit after the last one")


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "r.parquet"
    refused(path, "cannot be read as Parquet")
    path.write_text("patient_id,codes")
    refused(path, "cannot be read as Parquet")
    pq.write_table(pa.table({"patient_id": IDS}), path)
    refused(path, "has no column `codes` .it has patient_id.")
    refused(write(path, patient_id=pa.array([1, 2, 3])), "`patient_id` has the type int64, not string")
    refused(write(path, codes=pa.array([[1], [2], [3]])), "`codes` has the type list<.*>, not list of string")
    refused(write(path, set_size=pa.array([0.5, 1.0, 2.0])), "`set_size` has the type double, not integer")
