"""A DICOM node beside a PACS: it receives series by C-STORE and sends research results."""
