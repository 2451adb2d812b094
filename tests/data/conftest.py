import gzip
from pathlib import Path

import pytest


FIXTURES = Path(__file__).parent.parent / "fixtures"

DIABETES = """\
encounter_id,patient_nbr,race,gender,age,admission_type_id,discharge_disposition_id,admission_source_id,time_in_hospital,\
medical_specialty,number_outpatient,number_emergency,number_inpatient,diag_1,diag_2,diag_3,number_diagnoses,max_glu_serum,\
A1Cresult,insulin,change,diabetesMed,readmitted
20,7,Caucasian,Female,[70-80),1,6,7,5,Cardiology,0,2,1,8,V15,250.01,9,None,>8,Up,Ch,Yes,NO
10,7,Caucasian,Female,[60-70),3,18,1,1,?,0,0,0,38,E932,38,2,>300,None,No,No,No,<30
31,8,AfricanAmerican,Male,[0-10),6,1,17,14,Surgery-Cardiovascular/Thoracic,5,0,0,428,?,?,16,None,Norm,Steady,No,Yes,>30
30,8,AfricanAmerican,Male,[0-10),2,11,4,3,PhysicianNotFound,0,0,0,?,?,?,5,None,None,No,No,No,NO
5,9,?,Unknown/Invalid,[90-100),1,1,7,2,?,0,0,0,486,?,?,1,None,None,No,No,No,NO
"""

MIMIC3 = {
    "ADMISSIONS": """\
ROW_ID,SUBJECT_ID,HADM_ID,ADMITTIME,ADMISSION_TYPE,DISCHARGE_LOCATION,ETHNICITY
1,1,102,2150-06-01 10:00:00,EMERGENCY,SNF,WHITE
2,1,101,2150-01-01 09:30:00,ELECTIVE,HOME,UNKNOWN/NOT SPECIFIED
3,2,201,2160-01-01 00:00:00,URGENT,DEAD/EXPIRED,ASIAN
4,2,200,2160-01-01 00:00:00,NEWBORN,SOME NEW PLACE,ASIAN
5,3,300,2170-01-01 00:00:00,EMERGENCY,HOME,WHITE
6,3,301,2171-01-01 00:00:00,EMERGENCY,HOME,WHITE
""",
    "DIAGNOSES_ICD": """\
ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE
1,1,101,2,"4019"
2,1,101,1,"0389"
3,1,102,1,"E8889"
4,1,102,2,"V1582"
5,1,102,3,"V1582"
6,2,200,1,25023
7,2,201,1,4280
8,3,300,1,
9,3,301,1,486
10,9,999,1,486
11,2,201,2,99999
""",
    "PATIENTS": """\
ROW_ID,SUBJECT_ID,GENDER,DOB
1,1,F,2100-01-01 00:00:00
2,2,M,1860-01-01 00:00:00
3,3,M,2170-01-01 00:00:00
""",
}

MIMIC4 = {
    "admissions": """\
subject_id,hadm_id,admittime,admission_type,discharge_location,race
1,11,2180-05-06 22:23:00,EW EMER.,HOME,WHITE
1,10,2178-05-06 22:23:00,EU OBSERVATION,,WHITE
2,20,2130-01-01 00:00:00,SURGICAL SAME DAY ADMISSION,DIED,UNABLE TO OBTAIN
2,21,2131-01-01 00:00:00,DIRECT EMER.,HOSPICE,UNABLE TO OBTAIN
""",
    "diagnoses_icd": """\
subject_id,hadm_id,seq_num,icd_code,icd_version
1,10,1,E8889,9
1,10,2,V1582,9
1,11,1,E1165,10
1,11,2,V0100XA,10
2,20,1,25023,9
2,21,1,I10,10
""",
    "patients": """\
subject_id,gender,anchor_age,anchor_year,anchor_year_group
1,F,52,2180,2014 - 2016
2,M,91,2120,2008 - 2010
""",
}

DESYNPUF = """\
DESYNPUF_ID,CLM_ID,SEGMENT,CLM_FROM_DT,CLM_ADMSN_DT,ICD9_DGNS_CD_1,ICD9_DGNS_CD_2,ICD9_DGNS_CD_3,ICD9_DGNS_CD_4,\
ICD9_DGNS_CD_5,ICD9_DGNS_CD_6,ICD9_DGNS_CD_7,ICD9_DGNS_CD_8,ICD9_DGNS_CD_9,ICD9_DGNS_CD_10
A1,900,1,20090901,20090901,4019,,,,,,,,,25000
A1,800,2,20090301,20090301,V5861,,,,,,,,,
A1,800,1,20090301,20090301,0389,,,,,,,,,
A1,700,1,20090301,20090301,486,,,,,,,,,
"""

VISITS = """\
patient,visit,time,code,version,sex,age,race
p1,b,2020-11-20,E11.65,10,F,64,White
p1,a,2019-03-02,250.00,9,female,63,White
p1,a,2019-03-02,38,9,F,63,White
p2,a,2019-03-02,I10,ICD-10-CM,,,
p2,b,2019-03-02 08:00,v15.82,icd9,,,
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def raw(tmp_path):
    """Write the raw files of a source under `raw/`, with `replace={old: new}` applied to
    one of them, or with lower-case column names, and `more` tables (name to text) beside them; return the folder."""

    def make(source, table=None, replace=None, suffix=".csv", lower=False, more=None):
        tables = {
            "diabetes130": {"diabetic_data": DIABETES},
            "mimic3": MIMIC3,
            "mimic4": {f"hosp/{name}": text for name, text in MIMIC4.items()},
            "desynpuf": {"DE1_0_2008_to_2010_Inpatient_Claims_Sample_1": DESYNPUF},
            "visits_csv": {"visits": VISITS},
        }[source] | (more or {})
        folder = tmp_path / "raw"
        for name, text in tables.items():
            if table in (None, name):
                for old, new in (replace or {}).items():
                    assert old in text
                    text = text.replace(old, new)
            if lower:
                header, _, rest = text.partition("\n")
                text = f"{header.lower()}\n{rest}"
            write(folder / f"{name}{suffix}", text)
        return folder

    return make


@pytest.fixture
def demo():
    return lambda source: FIXTURES / f"{source}_demo"
