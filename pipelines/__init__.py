"""Data work: Apache Beam transforms and plain functions over Arrow record batches."""
