-- Names of numbers, for messages. kind: customers (canonical numbers), extensions, lines.
CREATE TABLE names (
    part smallint NOT NULL,
    enterprise text NOT NULL,
    kind text NOT NULL,
    number text NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (part, enterprise, kind, number)
);
