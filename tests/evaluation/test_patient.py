import numpy as np
import pytest
from ranking_cases import ranked

from mera_hf.data.samples import Sample
from mera_hf.evaluation.sections.patient import example_patient


def test_the_example_is_the_median_patient_and_has_no_identifier():
    def sample(patient, target):
        return Sample(patient, [[0], [1], [2]], target, {"sex": "M", "age": 61.0, "patient_id": "secret", "race": "x"})

    samples = [
        Sample(0, [[0]], [0, 9], {}),  # too short a history
        sample(1, [0, 28]),  # recall@20: 1/2
        sample(2, [0, 5]),  # 1
        sample(3, [25, 2, 28]),  # 1/3
        sample(4, [7]),  # nothing repeated
    ]
    order = np.tile(np.arange(30), (5, 1))
    probabilities = np.tile(np.linspace(0.9, 0.01, 30), (5, 1))
    names = [f"code {i}" for i in range(30)]
    example = example_patient(ranked(order, np.full(5, 3), probabilities), samples, names, names, top=4)
    assert example["visits"] == [["code 0"], ["code 1"], ["code 2"]]
    assert example["profile"] == {"sex": "M", "age": 61.0}
    assert [entry["rank"] for entry in example["ranking"]] == [1, 2, 3, 4]
    assert [entry["true"] for entry in example["ranking"]] == [True, False, False, False]
    assert example["missed"] == [
        {
            "rank": 29,
            "code": "code 28",
            "description": "code 28",
            "probability": pytest.approx(probabilities[0, 28]),
            "true": True,
            "repeated": False,
        }
    ]
    assert (example["set_size"], example["true_size"]) == (3, 2)
    assert "secret" not in str(example)
