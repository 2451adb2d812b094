import csv

import pytest
from cohort import COLUMNS
from tiny import CODES, patients, tiny_mera

from mera_hf.data.prepare import prepare


CONFORMAL = {"patients": 40, "codes": {"0.8": 0.05, "0.9": 0.03}, "visits": {"0.8": 0.02, "0.9": 0.01}}


@pytest.fixture(scope="session")
def plain():
    """A tiny model whose values are probabilities, with sets of a known coverage, and its tokenizer."""
    model, tokenizer = tiny_mera("llama", calibration=[0.0, 1.0, 0.5, 0.3, 0.0, 1.2], eov_value=0.15)
    model.config.conformal = CONFORMAL
    return model, tokenizer


@pytest.fixture(scope="session")
def weighed():
    """A tiny model whose first ten codes stand in the order of their worth, and its tokenizer."""
    import torch

    model, tokenizer = tiny_mera("llama", calibration=[0.0, 1.0, 0.5, 0.3, 0.0, 1.2], eov_value=0.01, rerank_depth=10)
    draw = torch.Generator().manual_seed(5)
    head = model.ranking_head
    head.value_weight.copy_(0.7 + torch.rand(len(CODES), generator=draw))
    head.value_threshold.copy_(0.2 * torch.rand(len(CODES), generator=draw))
    return model, tokenizer


@pytest.fixture(scope="session")
def by_logit():
    """A tiny model with an offset of EOV fitted, as training leaves it where no codes are reordered, and its tokenizer."""
    return tiny_mera("llama", calibration=[0.0, 1.0, 0.5, 0.3, 0.0, 1.2], eov_offset=0.05)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A prepared folder of sixty synthetic patients with the codes of the tiny model, which counts as credentialed."""
    base = tmp_path_factory.mktemp("stored")
    with open(base / "visits.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for patient in patients(60):
            sex = patient["profile"]["sex"] or "F"
            for number, visit in enumerate(patient["visits"], start=1):
                for code in visit["codes"]:
                    raw = code.split(":")[1]
                    row = (patient["patient_id"], number, f"{2010 + number}-01-01", raw, "9", sex, "72", "White")
                    table.writerow(row)
    prepare("visits_csv", base / "visits.csv", base / "data")
    return base / "data"
