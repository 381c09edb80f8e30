"""Files that people load: grammars of names, metadata, reading and writing. The only place with foreign key words."""
