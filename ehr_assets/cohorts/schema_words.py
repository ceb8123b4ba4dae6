"""What an editor shows for the keys of a cohort file that the docstrings of their models need not explain.

"Key" alone holds for every model that has it, "Model.key" for that one. Only words; `schema.py` uses them.
"""

WORDS = {
    "kind": "Which kind it is.",
    "root_env": "The environment variable that names where the raw tables lie: a directory, or s3://bucket/prefix.",
    "name": "Small letters, digits and underscores; unique among its kind.",
    "codes": "Regular expressions that are searched in the MEDS codes; write ^ and $ where they are meant.",
    "section": "The part of the record that the event belongs to, or rules that read it off a column.",
    "delimiter": 'The character between fields; default: a comma. Of tab-separated files: "\\t".',
    "quote": "The character around values that hold delimiters or line ends; null: quotes have no meaning.",
    "skip_rows": "Lines between the header and the data.",
    "encoding": "utf-8 (the default), latin-1, utf-16 …; of two, the second is for bytes wrong in the first.",
    "missing": "Texts that mean nothing was recorded. Quote what must be taken letter for letter.",
    "optional": "The table may be absent; then it makes no events (a joined one: its columns are null).",
    "CohortSpec.name": "The cohort's name, and that of its file: small letters, digits and underscores.",
    "CohortSpec.title": "As reports call the cohort.",
    "CohortSpec.description": "One or two sentences about whose records these are.",
    "CohortSpec.source": "Where the raw tables come from.",
    "CohortSpec.quarantine_threshold": "The share of raw rows that may go to quarantine before the cohort is "
    "refused; default 0.01.",
    "CohortSpec.shard_subjects": "Subjects per file of the MEDS dataset.",
    "CohortSpec.splits": "How subjects are dealt into train, tuning and held_out.",
    "CohortSpec.subjects": "The roster: the table that says who the subjects are.",
    "CohortSpec.table_defaults": "What holds for every table and join that does not say otherwise itself.",
    "CohortSpec.tables": "The raw tables and the events that their rows make.",
    "CohortSpec.availability": "When records of some codes can have been known, in a clinician's words; leak "
    "guards hold the events against it.",
    "CohortSpec.accepted_features": "Features that a leak guard names because each tells a task nearly by "
    "itself, and that are no leak, with the reason.",
    "CohortSpec.baselines": "Which models of flattened records stand beside the recipes, and how.",
    "MedsSource.default_section": "The section of codes that no pattern is found in.",
    "SyntheticSource.simulator": "The embedded simulator's name.",
    "SyntheticSource.subjects": "How many subjects to simulate.",
    "SyntheticSource.seed": "Equal seeds give equal tables.",
    "SplitsSpec.salt": "Another salt deals all persons anew.",
    "GivenSplits.file": "The table, under the root, without its ending.",
    "GivenSplits.subject_id": "Its column of subject ids.",
    "GivenSplits.split": "Its column that says train, tuning or held_out.",
    "SubjectsSpec.table": "The `name` of one of the tables.",
    "SubjectsSpec.column": "That table's `subject_id`.",
    "When.not_null": "Columns that must hold something.",
    "When.is_null": "Columns that must be empty.",
    "When.equals": "Column → the text that it must hold.",
    "When.in": "Column → texts, one of which it must hold.",
    "When.not_in": "Column → texts, none of which it may hold (empty is allowed).",
    "TableSpec.name": "The table's name in this file, in the quarantine and in the accounts.",
    "TableSpec.subject_id": "The column of subject ids; default: subject_id.",
    "TableSpec.joins": "Left joins to dimension and visit tables, or names of such under `joins`.",
    "TableSpec.events": "The events that a row can make, each by itself.",
    "EventSpec.code": 'A template: "LAB//{itemid}//{unit|UNK}". No event where a column without default is '
    "empty. MEDS_BIRTH and MEDS_DEATH are the codes of birth and death.",
    "EventSpec.static": "The event has no time: it always holds (sex, birthplace).",
    "EventSpec.time": "When it happened: a column, a way to read a time, or several: the first that is "
    "not empty counts.",
    "EventSpec.available": "When it could first be known: of several ways, the first that is not before its "
    "time. Default: at its time; what is known to the day at the end of that day.",
    "EventSpec.description": "A template for what the code means, for metadata/codes.parquet.",
    "EventSpec.when": "Only these rows make the event.",
    "SectionRules.column": "The column that the patterns are looked for in.",
    "SectionRules.rules": "Pattern → section; the first that is found decides.",
    "SectionRules.default": "The section where no pattern is found.",
    "TimeSpec.minus_years": "A column of years to subtract, such as an age.",
    "TimeSpec.since": "The time that `elapsed` is counted from.",
    "Conversion.factor": "What the number is multiplied with.",
    "Conversion.offset": "What is then added.",
    "NodesSpec.task_set": "The task file that says what is predicted at the nodes.",
    "NodesSpec.follow_up": "For how long subjects are followed.",
    "NodesSpec.indications": "Name → codes: what the subject was treated for, for reports.",
    "NodesSpec.triggers": "What makes a decision node.",
    "CohortSpec.quality": "Windows and tolerances of the checks on the events.",
    "QualitySpec.window": "The days from which the extract can hold events.",
    "QualitySpec.values": "How the range of a code's numbers is fitted, and how far they may stray.",
    "QualitySpec.volume": "How much the events of a month may change from one materialization to the next.",
    "WindowSpec.first": "The first day.",
    "WindowSpec.last": "The last day.",
    "RangeSpec.min": "The smallest number, or the first day.",
    "RangeSpec.max": "The greatest number, or the last day.",
    "RowCountSpec.min": "At least this many rows.",
    "RowCountSpec.max": "At most this many rows.",
    "TableSpec.expect": "Promises about the raw table; each becomes a check.",
}

# Keys that a file may use and that are gone before the models see them (`expand.py`).
SHORT_WORDS = {
    "extends": "The name of a cohort file that this one begins from: say only what differs. Tables are laid "
    "over those of the same name.",
    "drop": "Leave out this table of the cohort that is extended.",
    "join": "The name of a join under `joins` that this one begins from.",
    "prefix": "Stands before the names of the new columns of a join that begins from another.",
}
