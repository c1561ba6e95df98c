import json

import pydantic
import pytest

from benchmarks import schema


def test_round_trip(results, tmp_path):
    schema.write(tmp_path / "new" / "numbers.json", results)
    assert schema.read(tmp_path / "new" / "numbers.json") == results


@pytest.mark.parametrize("change", [{"schema_version": "bptt_relax benchmarks 0"}, {"unheard_of": 1}])
def test_files_of_another_version_are_refused(results, tmp_path, change):
    path = tmp_path / "numbers.json"
    path.write_text(json.dumps(json.loads(results.model_dump_json()) | change))
    with pytest.raises(pydantic.ValidationError):
        schema.read(path)
