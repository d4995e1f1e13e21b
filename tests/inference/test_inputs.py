"""Which files of a folder are inputs, and of whom they are."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from alzmri.errors import UserError
from alzmri.inference import inputs


def test_hidden_files_and_those_in_hidden_folders_are_no_inputs(tmp_path, write):
    for name in ("a/x.jpg", "a/._x.jpg", "a/.cache/x.jpg", ".hidden/x.jpg"):
        write(tmp_path / name)
    assert [source.files for source in inputs.find([str(tmp_path)])] == [(tmp_path / "a/x.jpg",)]
    # But for one that is named.
    (named,) = inputs.find([str(tmp_path / ".hidden")])
    assert named.kind == "image"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: has no image, volume or DICOM file"):
        inputs.find([str(tmp_path / "empty")])


def test_images_of_a_folder_are_of_one_subject_where_that_is_asked_for(tmp_path, write):
    for name in ("ann/1.jpg", "ann/2.jpg", "bob/1.jpg"):
        write(tmp_path / name)
    sources = inputs.find([str(tmp_path / "*" / "*.jpg")])

    def subjects(**options):
        read = (inputs.read(source, lambda pixels: pixels, **options) for source in sources)
        return [item.subject for (item,) in read]

    ann, bob = str(tmp_path / "ann"), str(tmp_path / "bob")
    assert subjects(by_folder=True) == [ann, ann, bob]
    assert subjects() == [None] * 3


def _dicom(path: Path, series: str) -> Path:
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = MRImageStorage
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
    item.SeriesInstanceUID, item.Modality = series, "MR"
    item.PixelSpacing, item.Rows, item.Columns = [1, 1], 8, 8
    item.ImageOrientationPatient, item.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    item.PhotometricInterpretation = "MONOCHROME2"
    item.save_as(path, enforce_file_format=True)
    return path


def test_two_series_in_one_folder_are_two_inputs_that_are_told_apart(tmp_path):
    one, other = generate_uid(), generate_uid()
    files = [
        _dicom(tmp_path / f"{number}.dcm", series)
        for number, series in enumerate((one, other, one, other))
    ]
    first, second = inputs.find([str(tmp_path)])
    assert (first.files, second.files) == ((files[0], files[2]), (files[1], files[3]))
    assert first.name == f"{tmp_path} (series of 0.dcm)"
    assert second.name == f"{tmp_path} (series of 1.dcm)"
