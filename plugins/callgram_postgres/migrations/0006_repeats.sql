-- How often an event was posted again: repetitions are recognised and not stored.
ALTER TABLE call_events ADD COLUMN repeats integer NOT NULL DEFAULT 0;
