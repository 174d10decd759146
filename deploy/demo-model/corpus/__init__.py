"""Text to train on, made by rule: tables, families of questions over them, documents."""
