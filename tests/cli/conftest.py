from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cohort import write_visits
from command import memorize, succeed, train


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """What `mera` wrote and printed for three small data sets: `work(name)` is the folder with `dataset`, `memorized`
    and `model`, and a dict of what each verb printed."""
    made = {}

    def make(name):
        if name in made:
            return made[name]
        folder, printed = tmp_path_factory.mktemp(name), {}
        if name == "visits_csv":
            source = write_visits(folder / "visits.csv")
        else:
            source = Path(__file__).parents[1] / "fixtures" / f"{name}_demo"
        dataset, memorized, model = folder / "dataset", folder / "memorized", folder / "model"
        fewer = ("--sample", "20") if name == "mimic4" else ()  # of 48 patients with 1,270 codes
        printed["prepare"] = succeed("prepare", name, "--data-dir", source, "--output-dir", dataset, *fewer)
        printed["memorize"] = memorize(dataset, memorized, "--groups", "false")
        printed["train"] = train(dataset, model, memorized)
        made[name] = folder, printed
        return made[name]

    return make


@pytest.fixture(scope="session")
def small(work):
    """The folder of the small visits table: `dataset`, `memorized`, `model`."""
    return work("visits_csv")[0]


@pytest.fixture(scope="session")
def patient_files(small, tmp_path_factory):
    """The patients of the small data set in five files, and so in five shards."""
    folder = tmp_path_factory.mktemp("files")
    names = ("train", "validation", "test")
    table = pa.concat_tables([pq.read_table(small / "dataset" / "data" / f"{name}.parquet") for name in names])
    for number in range(5):
        pq.write_table(table.slice(12 * number, 12), folder / f"{number}.parquet")
    return folder


@pytest.fixture(scope="session")
def rankings(small, patient_files, tmp_path_factory):
    """What one process writes."""
    output = tmp_path_factory.mktemp("alone") / "rankings"
    run = succeed("predict", small / "model", "--dataset", patient_files, "--output-dir", output, "--top-k", "5")
    return output, run
