"""Opening the database of the source: SSD_CONNECTION_STRING, or else the one of the staging table."""

from __future__ import annotations

import threading

from api_pipeline import db
from api_pipeline.config import Settings
from api_pipeline.errors import PipelineError


def connect_source(
    settings: Settings, *, create: bool = False, stop: threading.Event | None = None
) -> db.Database:
    """Open the database that holds the SSD: SSD_CONNECTION_STRING, or else DB_CONNECTION_STRING.

    ``create`` lets a missing SQLite file be made.

    Raises:
        ConfigError: if that is no connection string.
        DatabaseError: if the database cannot be opened.
    """
    own = settings.ssd_connection_string
    text = (settings.db_connection_string if own is None else own).reveal()
    try:
        return db.connect(
            text,
            trust_server_certificate=settings.db_trust_server_certificate,
            create=create,
            stop=stop,
        )
    except PipelineError as error:
        if own is None:
            raise
        message, remedy = (
            part.replace("DB_CONNECTION_STRING", "SSD_CONNECTION_STRING")
            for part in (error.message, error.remedy)
        )
        raise type(error)(f"The source: {message}", hop=error.hop, remedy=remedy) from error


def source_is_meant(settings: Settings) -> bool:
    """Whether a setting says that ``stage`` is to be used; WINDOW_MONTHS and UASC_PATTERN alone do not."""
    given = (
        settings.ssd_schema,
        settings.ssd_connection_string,
        settings.cohort_table,
        settings.worker_id_column,
    )
    return any(setting is not None for setting in given)
