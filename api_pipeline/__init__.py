"""Send children's social care records from a staging table to the Department for Education."""

__version__ = "0.1.0"
