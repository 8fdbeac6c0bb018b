"""The model card of a run: final_model/README.md, written from the files of the run.

- `record` reads the run, its data, its base and its evaluations; nothing is invented, what is unknown is said
  to be so;
- `private` decides what of a path or a flag may be published;
- `text` renders front matter and Markdown;
- `section` puts them between markers, and keeps what a user wrote;
- `write` writes the card.
"""
