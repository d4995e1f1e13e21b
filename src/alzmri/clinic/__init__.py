"""A DICOM node beside a PACS: series come by C-STORE, research results go back as DICOM."""
