"""Tables held to a row that is declared as a Pydantic class: read column by column, looked at a column at a time.

`reading.py` makes one thing of every kind of table, `columns.py` and `frames.py` one of every kind of column;
`model.py` compiles the class, `fields.py` and `kinds.py` its fields; `report.py` words what was found.
"""
