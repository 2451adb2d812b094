"""Each source on a small raw file written by hand: what it reads, and what it says of a fault."""

import gzip
import importlib

import polars as pl
import pytest
from datasets import Dataset

from mera_hf.data.codes import map_codes, normalize_codes
from mera_hf.data.cohort import select_cohort
from mera_hf.data.schema import VISITS_FEATURES, check_visits
from mera_hf.data.sources import SOURCES
from mera_hf.errors import InputError
from mera_hf.icd import gem_map


def read(source, folder):
    return importlib.import_module(f"mera_hf.data.sources.{source}").read(folder)


def visits(source, folder, unknown="drop"):
    """`{patient: [(codes, time, text), ...]}` and `{patient: profile}` of all visits with codes."""
    records = read(source, folder)
    codes, _, _ = normalize_codes(records, unknown)
    rows, _ = select_cohort(records, codes, rule="default", min_visits=1, keep_single_visit=False, sample=None)
    found = {row["patient_id"]: row for row in rows.to_dicts()}
    return (
        {patient: [tuple(visit.values()) for visit in row["visits"]] for patient, row in found.items()},
        {patient: tuple(row["profile"].values()) for patient, row in found.items()},
    )


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_diabetes130(raw, suffix):
    found, profiles = visits("diabetes130", raw("diabetes130", suffix=suffix))
    assert found == {
        # Lost zeros come back; encounter 10 precedes 20; a repeated code counts once; E and V codes are ICD-9-CM.
        "7": [
            (
                ["ICD9CM:038", "ICD9CM:E932"],
                None,
                "elective admission, from referral, one day, few diagnoses, glucose above 300, no insulin, "
                "no diabetes medicine",
            ),
            (
                ["ICD9CM:008", "ICD9CM:V15", "ICD9CM:250.01"],
                None,
                "emergency admission, from emergency room, discharged to home care, medium stay, cardiology, many "
                "diagnoses, some emergency visits before, one inpatient visit before, a1c above 8, insulin up, "
                "diabetes medicine, medicine changed",
            ),
        ],
        "8": [
            (
                ["ICD9CM:428"],
                None,
                "discharged home, long stay, surgery cardiovascular thoracic, many diagnoses, many outpatient visits "
                "before, a1c normal, insulin steady, diabetes medicine",
            )
        ],
        "9": [
            (
                ["ICD9CM:486"],
                None,
                "emergency admission, from emergency room, discharged home, short stay, few diagnoses, no insulin, "
                "no diabetes medicine",
            )
        ],
    }
    # The profile is that of the first encounter, even where that encounter has no code (patient 8).
    assert profiles == {
        "7": ("F", 65.0, "caucasian"),
        "8": ("M", 5.0, "african american"),
        "9": (None, 95.0, None),
    }


def test_diabetes130_never_reads_readmitted(raw):
    with_column = read("diabetes130", raw("diabetes130"))
    changed = read("diabetes130", raw("diabetes130", replace={",<30\n": ",NO\n", ",>30\n": ",<30\n"}))
    assert with_column.visits.equals(changed.visits) and with_column.codes.equals(changed.codes)
    without = read("diabetes130", raw("diabetes130", replace={",readmitted": ",other"}))
    assert with_column.visits.equals(without.visits)


def test_diabetes130_bundled():
    records = read("diabetes130", None)
    assert records.patients.height == 71_518
    assert records.visits.height == 101_766
    codes, report, _ = normalize_codes(records, "error")
    assert codes["code"].n_unique() == 915
    rows, dropped = select_cohort(records, codes, rule="default", min_visits=2, keep_single_visit=False, sample=None)
    assert rows.height == 16_773
    assert rows.select(pl.col("visits").explode().struct.field("codes").explode().n_unique()).item() == 793
    assert dropped == {
        "visits without codes": 1,
        "patients without any code": 1,
        "patients with fewer than 2 visits": 54_744,
    }
    words = records.visits["text"].drop_nulls().str.split(", ").explode()
    assert words.n_unique() < 130
    assert not words.str.contains("readmi|null|none|[A-Z]").any()


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_mimic3(raw, lower, suffix):
    found, profiles = visits("mimic3", raw("mimic3", suffix=suffix, lower=lower))
    assert found["1"] == [
        (["ICD9CM:038.9", "ICD9CM:401.9"], "2150-01-01T09:30:00", "elective admission, discharged home"),
        (
            ["ICD9CM:E888.9", "ICD9CM:V15.82"],
            "2150-06-01T10:00:00",
            "emergency admission, discharged to nursing facility",
        ),
    ]
    # Equal times: the lower hadm_id comes first.
    assert [codes for codes, _, _ in found["2"]] == [["ICD9CM:250.23"], ["ICD9CM:428.0"]]
    assert [text for _, _, text in found["2"]] == [
        "newborn admission, discharged to some new place",
        "urgent admission, died",
    ]
    assert [codes for codes, _, _ in found["3"]] == [["ICD9CM:486"]]
    assert profiles["1"] == ("F", pytest.approx(50.0, abs=0.01), None)
    # Born 300 years before: older than 89.
    assert profiles["2"] == ("M", pytest.approx(91.4), "asian")
    assert profiles["3"] == ("M", 0.0, "white")


def test_mimic3_counts_what_it_drops(raw):
    records = read("mimic3", raw("mimic3"))
    assert records.dropped == {
        "diagnosis rows without a code": 1,
        "diagnosis rows without an admission": 1,
        "DRG severities of visits (no table DRGCODES)": 6,
    }
    _, unknown, dropped = normalize_codes(records, "drop")
    assert dropped == {"unknown codes": 1, "codes repeated within a visit": 1}
    assert [(row["value"], row["count"]) for row in unknown] == [("99999", 1)]


@pytest.mark.parametrize("inside", ["", "hosp"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_mimic4(raw, inside, suffix):
    found, profiles = visits("mimic4", raw("mimic4", suffix=suffix) / inside, unknown="error")
    # E888.9 and V15.82 are ICD-9-CM, E11.65 and V01.00XA ICD-10-CM: only the version tells.
    assert found["1"] == [
        (["ICD9CM:E888.9", "ICD9CM:V15.82"], "2178-05-06T22:23:00", "emergency observation admission"),
        (["ICD10CM:E11.65", "ICD10CM:V01.00XA"], "2180-05-06T22:23:00", "emergency ward admission, discharged home"),
    ]
    assert [text for _, _, text in found["2"]] == [
        "surgical same day admission, died",
        "direct emergency admission, discharged to hospice",
    ]
    assert profiles == {"1": ("F", 50.0, "white"), "2": ("M", 91.0, None)}


def test_mimic4_year_is_the_fields_estimate(raw):
    assert read("mimic4", raw("mimic4")).visits["year"].to_list() == [2012, 2014, 2018, 2019]


DRG = {  # file; table; severity of each visit, in their order; what is counted
    "mimic3": (
        "DRGCODES",
        """\
ROW_ID,SUBJECT_ID,HADM_ID,DRG_TYPE,DRG_CODE,DESCRIPTION,DRG_SEVERITY,DRG_MORTALITY
1,1,101,"APR ",720,Septicemia,2,4
2,1,101,"APR ",720,Septicemia,4,1
3,1,101,"APR ",720,Septicemia,3,1
4,1,102,HCFA,14,Stroke,4,4
5,1,102,MS,64,Stroke,4,4
6,2,200,"APR ",420,Diabetes,0,0
7,2,201,"APR ",194,Heart failure,1,1
8,3,300,"APR ",139,Pneumonia,,
9,9,999,"APR ",139,Pneumonia,3,3
""",
        [4, None, None, 1, None, None],
        {"APR-DRG rows without a severity (0 or empty)": 2, "APR-DRG rows without an admission": 1},
    ),
    "mimic4": (
        "hosp/drgcodes",
        """\
subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality
1,11,APR,420,Diabetes,3,2
1,11,HCFA,637,"Diabetes, with MCC",,
2,20,HCFA,637,Diabetes,,
2,21,APR,194,Hypertension,1,1
2,21,APR,199,Hypertension,2,1
""",
        [None, 3, None, 2],
        {"APR-DRG rows without a severity (0 or empty)": 0, "APR-DRG rows without an admission": 0},
    ),
}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("source", DRG)
def test_drg_severity_is_the_highest_of_the_apr_rows(raw, source, suffix):
    name, table, severity, counted = DRG[source]
    without = read(source, raw(source, suffix=suffix))
    assert "drg_severity" not in without.visits.columns
    assert without.dropped["DRG severities of visits (no table DRGCODES)"] == without.visits.height
    records = read(source, raw(source, suffix=suffix, more={name: table}))
    assert records.visits["drg_severity"].to_list() == severity and records.visits.schema["drg_severity"] == pl.Int8
    assert records.dropped.items() >= counted.items() and not any("no table" in what for what in records.dropped)
    assert records.visits.drop("drg_severity").equals(without.visits) and records.codes.equals(without.codes)
    assert [path.name for path in records.files[-2:]] == [without.files[-1].name, f"{name.split('/')[-1]}{suffix}"]


@pytest.mark.parametrize(
    "source,old,new,message",
    [
        (
            "mimic3",
            "Septicemia,3,1",
            "Septicemia,5,1",
            r"DRGCODES\.csv, row 4: `drg_severity` is 5\. Write 1 \(minor\)",
        ),
        ("mimic3", "DRG_SEVERITY", "SEVERITY", r"DRGCODES\.csv: column `drg_severity` is missing"),
        ("mimic4", "Diabetes,3,2", "Diabetes,-1,2", r"drgcodes\.csv, row 2: `drg_severity` is -1\. Write 1 \(minor\)"),
        (
            "mimic4",
            "Diabetes,3,2",
            "Diabetes,major,2",
            r"drgcodes\.csv, row 2: `drg_severity` is 'major', not a number",
        ),
        ("mimic4", "2,21,APR,194", "2,x,APR,194", r"drgcodes\.csv, row 5: `hadm_id` is 'x', not a number"),
    ],
)
def test_a_bad_drg_severity_is_named(raw, source, old, new, message):
    name, table, *_ = DRG[source]
    folder = raw(source, name, {old: new}, more={name: table})
    with pytest.raises(InputError, match=message):
        read(source, folder)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_desynpuf(raw, suffix):
    found, profiles = visits("desynpuf", raw("desynpuf", suffix=suffix))
    # Two segments of claim 800 are one visit; equal dates are in order of the claim's number.
    assert found == {
        "A1": [
            (["ICD9CM:486"], "2009-03-01", None),
            (["ICD9CM:038.9", "ICD9CM:V58.61"], "2009-03-01", None),
            (["ICD9CM:401.9", "ICD9CM:250.00"], "2009-09-01", None),
        ]
    }
    assert profiles == {"A1": (None, None, None)}


def test_desynpuf_bundled():
    records = read("desynpuf", None)
    assert (records.patients.height, records.visits.height) == (6_481, 18_947)
    assert normalize_codes(records, "error")[0]["code"].n_unique() > 3_900


EXPECTED_VISITS = {
    # Rows in any order, each with its own version; lost zeros and lower case come back.
    "p1": [
        (["ICD9CM:250.00", "ICD9CM:038"], "2019-03-02T00:00:00", None),
        (["ICD10CM:E11.65"], "2020-11-20T00:00:00", None),
    ],
    "p2": [(["ICD10CM:I10"], "2019-03-02T00:00:00", None), (["ICD9CM:V15.82"], "2019-03-02T08:00:00", None)],
}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet"])
def test_visits_csv(raw, tmp_path, ending):
    source = raw("visits_csv") / "visits.csv"
    path = tmp_path / f"mine{ending}"
    if ending == ".parquet":
        pl.read_csv(source, infer_schema=False).write_parquet(path)
    else:
        text = source.read_text()
        text = text.replace(",", "\t") if "tsv" in ending else text
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    found, profiles = visits("visits_csv", path, unknown="error")
    assert found == EXPECTED_VISITS
    assert profiles == {"p1": ("F", 63.0, "white"), "p2": (None, None, None)}


def test_visits_csv_reads_the_one_table_of_a_folder(raw):
    folder = raw("visits_csv", replace={" 08:00": "T08:00:00.000000"})
    assert visits("visits_csv", folder)[0] == EXPECTED_VISITS
    (folder / "other.csv").write_text("a\n")
    with pytest.raises(InputError, match="must hold one table.*other.csv, visits.csv"):
        read("visits_csv", folder)


def test_visits_csv_dates_stay_dates_and_numbers_order_visits(tmp_path):
    path = tmp_path / "visits.csv"
    path.write_text(
        "patient,visit,time,code,version\np,10,2020-01-01,486,9\np,9,2020-01-01,4019,9\np,1,2020-01-02,486,9\n"
    )
    found, _ = visits("visits_csv", path)
    assert found["p"] == [
        (["ICD9CM:401.9"], "2020-01-01", None),
        (["ICD9CM:486"], "2020-01-01", None),
        (["ICD9CM:486"], "2020-01-02", None),
    ]
    path.write_text("patient,visit,code,version\np,10,486,9\np,9,4019,9\n")
    assert visits("visits_csv", path)[0]["p"] == [(["ICD9CM:401.9"], None, None), (["ICD9CM:486"], None, None)]


@pytest.mark.parametrize("source", [name for name, source in SOURCES.items() if not source.drawn])
def test_every_source_ends_in_the_schema(raw, source):
    records = read(source, raw(source))
    codes, _, _ = normalize_codes(records, "drop")
    rows, _ = select_cohort(records, codes, rule="default", min_visits=1, keep_single_visit=False, sample=None)
    dataset = Dataset(rows.drop("single").to_arrow().cast(VISITS_FEATURES.arrow_schema))
    assert dataset.features == VISITS_FEATURES
    check_visits(dataset)


def test_unknown_codes_are_counted_and_the_most_frequent_comes_first(tmp_path):
    path = tmp_path / "mine.csv"
    rows = ("250.99,9", "E11.65,9", "250.99,10", "E11.65,9", "486,9")
    path.write_text("patient,visit,code,version\n" + "".join(f"p,{i},{row}\n" for i, row in enumerate(rows)))
    codes, unknown, dropped = normalize_codes(read("visits_csv", path), "drop")
    assert codes["code"].to_list() == ["ICD9CM:486"] and dropped["unknown codes"] == 4
    assert unknown == [
        {"value": "E11.65", "version": "ICD9CM", "count": 2, "nearest": None, "other": "ICD10CM:E11.65"},
        {"value": "250.99", "version": "ICD10CM", "count": 1, "nearest": None, "other": None},
        {"value": "250.99", "version": "ICD9CM", "count": 1, "nearest": "ICD9CM:250.9", "other": None},
    ]


def test_gem_mapping(raw):
    codes, _, _ = normalize_codes(read("mimic4", raw("mimic4")), "error")
    to9, added, dropped = map_codes(codes, "ICD9CM")
    assert to9["code"].str.starts_with("ICD9CM:").all()
    assert "ICD9CM:401.9" in to9["code"].to_list()  # I10
    assert to9.height == codes.height + added - sum(dropped.values())
    to10, _, _ = map_codes(codes, "ICD10CM")
    assert to10["code"].str.starts_with("ICD10CM:").all()


def visit_codes(*visits):
    rows = [(visit, code) for visit, codes in enumerate(visits) for code in codes]
    return pl.DataFrame(rows, schema={"visit": pl.Int64, "code": pl.String}, orient="row")


def test_mapping_counts_what_it_adds_merges_and_drops():
    codes = visit_codes(
        ["ICD10CM:I10", "ICD10CM:R65.21", "ICD9CM:486"],
        ["ICD10CM:U07.1"],
        ["ICD9CM:995.92", "ICD10CM:R65.21", "ICD10CM:I50.9", "ICD9CM:428.0"],
    )
    mapped, added, dropped = map_codes(codes, "ICD9CM")
    assert mapped.rows() == visit_codes(
        ["ICD9CM:401.9", "ICD9CM:785.52", "ICD9CM:995.92", "ICD9CM:486"],
        [],
        ["ICD9CM:995.92", "ICD9CM:785.52", "ICD9CM:428.0"],
    ).rows()  # fmt: skip
    assert added == 2
    assert dropped == {"codes without a counterpart in ICD9CM": 1, "codes merged within a visit by the map": 2}


def test_mapping_follows_what_the_source_records():
    ten, nine = ["ICD10CM:J44.9"], ["ICD9CM:491.20"]
    assert map_codes(visit_codes(ten, ["ICD9CM:486"]), "ICD9CM")[0].row(0) == (0, "ICD9CM:496")
    for visits in ([ten, nine], [ten, nine, nine, ["ICD9CM:496"]]):
        assert map_codes(visit_codes(*visits), "ICD9CM")[0].row(0) == (0, "ICD9CM:491.20")
    # Equal counts: what claims record more.
    assert map_codes(visit_codes(ten, nine, ["ICD9CM:496"]), "ICD9CM")[0].row(0) == (0, "ICD9CM:496")


@pytest.mark.parametrize(("only_repeated", "rows", "survive"), [(False, 2193, 2122), (True, 1645, 1594)])
def test_codes_of_the_demo_come_back_from_icd10(demo, only_repeated, rows, survive):
    """Of the ICD-9-CM rows, of all patients or of those with two visits or more; the rest is merged by ICD-10-CM."""
    records = read("mimic4", demo("mimic4"))
    codes, _, _ = normalize_codes(records, "error")
    counts = dict(codes["code"].value_counts().iter_rows())
    patients = records.visits.join(codes, on="visit", how="semi").select("visit", "patient_id")
    if only_repeated:
        patients = patients.filter(pl.len().over("patient_id") > 1)
    own = (
        codes.join(patients, on="visit", how="semi")
        .filter(pl.col("code").str.starts_with("ICD9CM:"))["code"]
        .to_list()
    )

    def back(code):
        return {other for target in gem_map(code, "ICD10CM", counts) for other in gem_map(target, "ICD9CM", counts)}

    returned = {code: code in back(code) for code in set(own)}
    assert (len(own), sum(returned[code] for code in own)) == (rows, survive)


FAULTS = [
    # source, table, replacement, message
    ("diabetes130", None, {",diag_2,": ",diag2,"}, r"diabetic_data\.csv: column `diag_2` is missing.*Rename or add"),
    ("diabetes130", None, {"\n10,7,": "\n20,7,"}, r"diabetic_data\.csv, row 3: `encounter_id` 20 has a row above"),
    (
        "diabetes130",
        None,
        {"\n10,7,": "\nten,7,"},
        r"diabetic_data\.csv, row 3: `encounter_id` is 'ten', not a number",
    ),
    ("diabetes130", None, {"\n10,7,": "\n10,?,"}, r"diabetic_data\.csv, row 3: column `patient_nbr` is empty"),
    ("mimic3", "DIAGNOSES_ICD", {"ICD9_CODE": "CODE"}, r"DIAGNOSES_ICD\.csv: column `icd9_code` is missing"),
    (
        "mimic3",
        "ADMISSIONS",
        {"2150-06-01 10:00:00": "June"},
        r"ADMISSIONS\.csv, row 2: `admittime` is 'June', not a time",
    ),
    ("mimic3", "ADMISSIONS", {"2150-06-01 10:00:00": ""}, r"ADMISSIONS\.csv, row 2: column `admittime` is empty"),
    ("mimic3", "ADMISSIONS", {"2,1,101": "2,1,102"}, r"ADMISSIONS\.csv, row 3: `hadm_id` 102 has a row above"),
    ("mimic3", "PATIENTS", {"2,2,M": "2,1,M"}, r"PATIENTS\.csv, row 3: `patient_id` 1 has a row above"),
    (
        "mimic3",
        "DIAGNOSES_ICD",
        {"1,101,": "1,901,", "1,102,": "1,902,", ",20": ",90", ",30": ",90"},
        "tables belong together",
    ),
    (
        "mimic4",
        "hosp/diagnoses_icd",
        {"E1165,10": "E1165,11"},
        r"diagnoses_icd\.csv, row 4: `icd_version` is '11'. Write 9 or 10",
    ),
    ("mimic4", "hosp/patients", {"2014 - 2016": "recent"}, r"patients\.csv, row 2: `anchor_year_group` is 'recent'"),
    (
        "mimic4",
        "hosp/patients",
        {"2,M": "3,M"},
        r"admissions\.csv, row 4: `subject_id` 2 is not in the patients table",
    ),
    (
        "desynpuf",
        None,
        {"20090901,4019": "2009-09-01,4019"},
        r"Sample_1\.csv, row 2: `CLM_ADMSN_DT` is '2009-09-01'.*YYYYMMDD",
    ),
    ("desynpuf", None, {"ICD9_DGNS_CD_7": "X"}, r"Sample_1\.csv: column `icd9_dgns_cd_7` is missing"),
    ("visits_csv", None, {"version": "kind"}, r"visits\.csv: column `version` is missing"),
    ("visits_csv", None, {",38,9": ",,9"}, r"visits\.csv, row 4: the visit 'a' has an empty `code`"),
    ("visits_csv", None, {",38,9": ",38,8"}, r"visits\.csv, row 4: `version` is '8'. Write 9 .* or 10"),
    (
        "visits_csv",
        None,
        {"p2,a,2019-03-02": "p2,a,02.03.2019"},
        r"visits\.csv, row 5: `time` is '02.03.2019', not a time",
    ),
    (
        "visits_csv",
        None,
        {" 08:00": ""},
        r"visits\.csv, row 6: the visit 'b' has the time 2019-03-02.*order is unknown",
    ),
    (
        "visits_csv",
        None,
        {"2019-03-02,38": "2019-03-03,38"},
        r"row 4: the visit 'a' has the time 2019-03-03.*Give a visit one",
    ),
    ("visits_csv", None, {"2019-03-02,38": ",38"}, r"visits\.csv, row 4: column `time` is empty"),
    (
        "visits_csv",
        None,
        {"patient,visit,time": "patient,visit,when"},
        r"visits\.csv: column `time` is missing or empty.*number the",
    ),
    ("visits_csv", None, {"female": "girl"}, r"visits\.csv, row 3: `sex` is 'girl'. Write F or M"),
    ("visits_csv", None, {",63,": ",6.3e,"}, r"visits\.csv, row 3: `age` is '6.3e', not a number.*\(1 more rows"),
    ("visits_csv", None, {",64,": ",640,"}, r"visits\.csv, row 2: `age` is 640.0. Write the age in years"),
    ("visits_csv", None, {"p1,b": ",b"}, r"visits\.csv, row 2: column `patient` is empty"),
]


@pytest.mark.parametrize("source,table,replace,message", FAULTS)
def test_faults_name_file_row_value_and_fix(raw, source, table, replace, message):
    folder = raw(source, table, replace)
    with pytest.raises(InputError, match=message):
        read(source, folder)


@pytest.mark.parametrize(
    "replace,message",
    [
        (
            {"250.00,9": "250.00,10"},
            r"visits\.csv, row 3: '250.00' is not an ICD-10-CM code.*ICD-9-CM code: set version 9",
        ),
        ({"E11.65,10": "E11.65,9"}, r"visits\.csv, row 2: 'E11.65' is not an ICD-9-CM code.*set version 10"),
        ({"250.00": "250.99"}, r"visits\.csv, row 3: '250.99'.*nearest valid prefix is ICD9CM:250.9.*--unknown drop"),
        ({"250.00": "240-279"}, r"visits\.csv, row 3: '240-279' is not an ICD-9-CM code"),
    ],
)
def test_unknown_codes_are_refused_or_counted(raw, replace, message):
    records = read("visits_csv", raw("visits_csv", replace=replace))
    with pytest.raises(InputError, match=message):
        normalize_codes(records, "error")
    codes, unknown, dropped = normalize_codes(records, "drop")
    assert (codes.height, [row["count"] for row in unknown], dropped["unknown codes"]) == (4, [1], 1)


def test_parquet_codes_must_be_text(tmp_path):
    path = tmp_path / "visits.parquet"
    pl.DataFrame({"patient": ["p"], "visit": [1], "code": [38.1], "version": [9]}).write_parquet(path)
    with pytest.raises(InputError, match="`code` holds Float64.*Write the codes as text"):
        read("visits_csv", path)


@pytest.mark.parametrize(
    "source,missing", [("mimic3", "ADMISSIONS.csv"), ("mimic4", "admissions.csv"), ("desynpuf", "Sample_<n>.csv")]
)
def test_missing_tables(tmp_path, source, missing):
    with pytest.raises(InputError, match=f"has no .*{missing}"):
        read(source, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read(source, tmp_path / "nowhere")


def test_broken_table(raw):
    folder = raw("diabetes130")
    with (folder / "diabetic_data.csv").open("a") as file:
        file.write("1,2,3" + ",x" * 60 + "\n")
    with pytest.raises(InputError, match="diabetic_data.csv cannot be read as a table"):
        read("diabetes130", folder)
