/*
What in the staging table, and in the SSD tables that its payloads come from, would be refused or left out?

For Management Studio, SQL Server 2012 and later: connect to the database of the staging table, fill in the three
names below, press Execute (F5). The answer is one result set with a line for each rule, problems first; the same
lines for everybody: no names, no payloads, only ids as examples. Nothing is changed: the script reads tables and
the catalogue, and keeps its lines in table variables. What does not exist here becomes a line that says so.

It looks at every row of the SSD tables, also at people outside the cohort. Where the SSD is in another database,
run it a second time there. More about it: pre_flight_checks.md.
*/
SET NOCOUNT ON;
SET LOCK_TIMEOUT 30000; -- a nightly job at work shall not make this wait for ever

DECLARE @staging_schema NVARCHAR(128) = N'dbo';
DECLARE @staging_table NVARCHAR(128) = N'ssd_api_data_staging';
DECLARE @ssd_schema NVARCHAR(128) = N'dbo'; -- for example ssd_development

/* --- What should exist ----------------------------------------------------------------------------------- */

DECLARE @columns TABLE (
    table_name NVARCHAR(128) NOT NULL,
    column_name NVARCHAR(128) NOT NULL,
    required BIT NOT NULL DEFAULT 1,
    types NVARCHAR(200) NULL, -- NULL: not checked here
    least INT NULL, -- characters, or bytes of a hash
    PRIMARY KEY (table_name, column_name)
);

INSERT INTO @columns (table_name, column_name, required, types, least)
VALUES
    (N'{staging}', N'id', 0, N',int,bigint,smallint,', NULL),
    (N'{staging}', N'person_id', 1, N',nvarchar,varchar,nchar,char,int,bigint,smallint,', 20),
    (N'{staging}', N'legacy_id', 0, N',nvarchar,varchar,nchar,char,int,bigint,smallint,', NULL),
    (N'{staging}', N'previous_json_payload', 1, N',nvarchar,varchar,ntext,text,json,', 60000),
    (N'{staging}', N'json_payload', 1, N',nvarchar,varchar,ntext,text,json,', 60000),
    (N'{staging}', N'partial_json_payload', 1, N',nvarchar,varchar,ntext,text,json,', 60000),
    (N'{staging}', N'current_hash', 1, N',binary,varbinary,', 32),
    (N'{staging}', N'previous_hash', 1, N',binary,varbinary,', 32),
    (N'{staging}', N'submission_status', 1, N',nvarchar,varchar,nchar,char,', 7),
    (N'{staging}', N'submission_timestamp', 1, N',datetime,datetime2,smalldatetime,', NULL),
    (N'{staging}', N'api_response', 1, N',nvarchar,varchar,nchar,char,ntext,text,', 36),
    (N'{staging}', N'row_state', 1, N',nvarchar,varchar,nchar,char,', 9),
    (N'{staging}', N'last_updated', 1, N',datetime,datetime2,smalldatetime,', NULL);

INSERT INTO @columns (table_name, column_name)
VALUES
    (N'ssd_person', N'pers_person_id'), (N'ssd_person', N'pers_legacy_id'), (N'ssd_person', N'pers_upn'),
    (N'ssd_person', N'pers_upn_unknown'), (N'ssd_person', N'pers_forename'),
    (N'ssd_person', N'pers_surname'), (N'ssd_person', N'pers_sex'), (N'ssd_person', N'pers_ethnicity'),
    (N'ssd_person', N'pers_dob'), (N'ssd_person', N'pers_expected_dob'),
    (N'ssd_linked_identifiers', N'link_person_id'), (N'ssd_linked_identifiers', N'link_identifier_type'),
    (N'ssd_linked_identifiers', N'link_identifier_value'),
    (N'ssd_linked_identifiers', N'link_valid_from_date'), (N'ssd_address', N'addr_person_id'),
    (N'ssd_address', N'addr_address_postcode'), (N'ssd_address', N'addr_address_start_date'),
    (N'ssd_disability', N'disa_person_id'), (N'ssd_disability', N'disa_disability_code'),
    (N'ssd_immigration_status', N'immi_person_id'), (N'ssd_immigration_status', N'immi_immigration_status'),
    (N'ssd_immigration_status', N'immi_immigration_status_start_date'),
    (N'ssd_immigration_status', N'immi_immigration_status_end_date'),
    (N'ssd_sdq_scores', N'csdq_person_id'), (N'ssd_sdq_scores', N'csdq_sdq_completed_date'),
    (N'ssd_sdq_scores', N'csdq_sdq_score'), (N'ssd_cin_episodes', N'cine_referral_id'),
    (N'ssd_cin_episodes', N'cine_person_id'), (N'ssd_cin_episodes', N'cine_referral_date'),
    (N'ssd_cin_episodes', N'cine_referral_source_code'), (N'ssd_cin_episodes', N'cine_referral_nfa'),
    (N'ssd_cin_episodes', N'cine_close_date'), (N'ssd_cin_episodes', N'cine_close_reason'),
    (N'ssd_cin_assessments', N'cina_assessment_id'), (N'ssd_cin_assessments', N'cina_person_id'),
    (N'ssd_cin_assessments', N'cina_referral_id'), (N'ssd_cin_assessments', N'cina_assessment_start_date'),
    (N'ssd_cin_assessments', N'cina_assessment_auth_date'),
    (N'ssd_assessment_factors', N'cinf_assessment_id'),
    (N'ssd_assessment_factors', N'cinf_assessment_factors_json'), (N'ssd_cin_plans', N'cinp_cin_plan_id'),
    (N'ssd_cin_plans', N'cinp_referral_id'), (N'ssd_cin_plans', N'cinp_person_id'),
    (N'ssd_cin_plans', N'cinp_cin_plan_start_date'), (N'ssd_cin_plans', N'cinp_cin_plan_end_date'),
    (N'ssd_s47_enquiry', N's47e_s47_enquiry_id'), (N'ssd_s47_enquiry', N's47e_referral_id'),
    (N'ssd_s47_enquiry', N's47e_person_id'), (N'ssd_s47_enquiry', N's47e_s47_start_date'),
    (N'ssd_s47_enquiry', N's47e_s47_end_date'), (N'ssd_s47_enquiry', N's47e_s47_outcome_json'),
    (N'ssd_initial_cp_conference', N'icpc_s47_enquiry_id'),
    (N'ssd_initial_cp_conference', N'icpc_icpc_date'), (N'ssd_cp_plans', N'cppl_cp_plan_id'),
    (N'ssd_cp_plans', N'cppl_referral_id'), (N'ssd_cp_plans', N'cppl_person_id'),
    (N'ssd_cp_plans', N'cppl_cp_plan_start_date'), (N'ssd_cp_plans', N'cppl_cp_plan_end_date'),
    (N'ssd_cla_episodes', N'clae_cla_episode_id'), (N'ssd_cla_episodes', N'clae_person_id'),
    (N'ssd_cla_episodes', N'clae_cla_id'), (N'ssd_cla_episodes', N'clae_referral_id'),
    (N'ssd_cla_episodes', N'clae_cla_episode_start_reason'),
    (N'ssd_cla_episodes', N'clae_cla_episode_ceased_reason'),
    (N'ssd_cla_placement', N'clap_cla_placement_id'), (N'ssd_cla_placement', N'clap_cla_id'),
    (N'ssd_cla_placement', N'clap_cla_placement_start_date'),
    (N'ssd_cla_placement', N'clap_cla_placement_end_date'),
    (N'ssd_cla_placement', N'clap_cla_placement_type'),
    (N'ssd_cla_placement', N'clap_cla_placement_postcode'),
    (N'ssd_cla_placement', N'clap_cla_placement_change_reason'), (N'ssd_permanence', N'perm_person_id'),
    (N'ssd_permanence', N'perm_cla_id'), (N'ssd_permanence', N'perm_adm_decision_date'),
    (N'ssd_permanence', N'perm_matched_date'), (N'ssd_permanence', N'perm_placed_for_adoption_date'),
    (N'ssd_care_leavers', N'clea_person_id'), (N'ssd_care_leavers', N'clea_care_leaver_latest_contact'),
    (N'ssd_care_leavers', N'clea_care_leaver_activity'),
    (N'ssd_care_leavers', N'clea_care_leaver_accommodation'),
    (N'ssd_involvements', N'invo_professional_id'), (N'ssd_involvements', N'invo_referral_id'),
    (N'ssd_involvements', N'invo_professional_role_id'),
    (N'ssd_involvements', N'invo_involvement_start_date'),
    (N'ssd_involvements', N'invo_involvement_end_date'), (N'ssd_professionals', N'prof_professional_id'),
    (N'ssd_professionals', N'prof_social_worker_registration_no');

/* --- The rules ------------------------------------------------------------------------------------------- */

-- severity: error, the record is not sent or nothing can run; warning, it is sent without this or not as it stands.
-- needs: the columns without which a rule cannot be checked. id_column: whose values are shown as examples.
-- condition: true for a row that breaks the rule; r is the row, c.v the trimmed value, c.u the same in upper case.
DECLARE @rules TABLE (
    rule_no INT IDENTITY(1, 1) PRIMARY KEY,
    severity NVARCHAR(10) NOT NULL,
    table_name NVARCHAR(128) NOT NULL,
    id_column NVARCHAR(128) NULL, -- NULL: a rule about the structure, filled in below
    value_column NVARCHAR(128) NULL,
    needs NVARCHAR(400) NULL,
    condition NVARCHAR(2000) NULL,
    shared BIT NOT NULL DEFAULT 0, -- 1: of the rows that meet the condition, those with a value that others have too
    rule_text NVARCHAR(200) NOT NULL,
    advice NVARCHAR(500) NOT NULL
);

INSERT INTO @rules (severity, table_name, rule_text, advice)
VALUES
    (N'error', N'{staging}', N'the staging table exists', N'Check the names at the top of this script; a login without rights does not see the table. init-db --print of the tool prints the SQL that creates it.'),
    (N'error', N'{staging}', N'the staging table has every column', N'Add the columns: test-schema of the tool prints the SQL.'),
    (N'error', N'{staging}', N'the columns of the staging table have types that the tool can use', N'Change the type as docs/settings.md and init-db --print show it.'),
    (N'error', N'{staging}', N'the columns of the staging table are wide enough', N'Widen them: payloads NVARCHAR(MAX), hashes BINARY(32), person_id NVARCHAR(48), submission_status NVARCHAR(50), row_state NVARCHAR(10).'),
    (N'warning', N'{staging}', N'the staging table has the columns id and legacy_id', N'Nothing, if it never had them: the tool works without.'),
    (N'warning', N'{staging}', N'the submission log and the baseline exist', N'Run init-db: without these two tables nothing remembers what was sent, and partial payloads are not possible.'),
    (N'warning', N'ssd tables', N'every SSD table exists', N'Check the schema at the top of this script. The tables are only needed by stage, or by the SQL job that fills the staging table.'),
    (N'warning', N'ssd tables', N'every SSD table has its columns', N'Bring the SSD up to date: stage stops at a column that is missing.'),
    (N'warning', N'ssd tables', N'dates of the SSD are kept as dates', N'Change the type of these columns to DATETIME: a text that is no date cannot be staged.');

INSERT INTO @rules (severity, table_name, id_column, value_column, needs, shared, condition, rule_text, advice)
VALUES
    (N'error', N'{staging}', N'{row}', N'person_id', N',person_id,', 0,
        N'c.v = N''''',
        N'person_id is not empty',
        N'Find the rows by their id and delete them, or mend the job that fills the table: a row without a person becomes an error row.'),
    (N'error', N'{staging}', N'{row}', N'person_id', N',person_id,', 1,
        N'c.v <> N''''',
        N'person_id is on one row only',
        N'Keep one row for each person: rows that share a person_id are never sent.'),
    (N'warning', N'{staging}', N'{row}', N'person_id', N',person_id,', 0,
        N'LEN(c.v) > 36',
        N'person_id has at most 36 characters',
        N'DfE takes 36 characters for la_child_id. Use the shorter id of the case system.'),
    (N'warning', N'{staging}', N'{row}', N'person_id', N',person_id,', 0,
        N'c.v LIKE N''%[^A-Za-z0-9_-]%''',
        N'person_id is made of A-Z, a-z, 0-9, _ and - only',
        N'DfE refuses other characters in la_child_id. Mend the id in the source.'),
    (N'error', N'{staging}', N'{row}', N'json_payload', N',person_id,json_payload,', 0,
        N'c.v = N''''',
        N'json_payload is not empty',
        N'Run the job that fills the table again, or stage: there is nothing to send for these people.'),
    (N'error', N'{staging}', N'{row}', N'json_payload', N',person_id,json_payload,', 0,
        N'c.v <> N'''' AND (LEFT(c.v, 1) <> N''{'' OR RIGHT(RTRIM(REPLACE(REPLACE(RIGHT(CAST(r.json_payload AS NVARCHAR(MAX)), 200), NCHAR(13), N'' ''), NCHAR(10), N'' '')), 1) <> N''}'')',
        N'json_payload is one JSON object',
        N'The text has to begin with { and end with }: it may have been cut, or be a list. Fill the row again.'),
    (N'error', N'{staging}', N'{row}', N'{la_child_id}', N',person_id,json_payload,', 0,
        N'c.v = N'''' AND LEN(CAST(r.json_payload AS NVARCHAR(MAX))) > 0',
        N'json_payload has a la_child_id, as text',
        N'DfE refuses a record without one. Mend the job that builds the payload: the id goes in quotes.'),
    (N'error', N'{staging}', N'{row}', N'{la_child_id}', N',person_id,json_payload,', 0,
        N'LEN(c.v) > 36',
        N'la_child_id in json_payload has at most 36 characters',
        N'DfE refuses the record. Use the shorter id of the case system.'),
    (N'error', N'{staging}', N'{row}', N'{la_child_id}', N',person_id,json_payload,', 0,
        N'c.v LIKE N''%[^A-Za-z0-9_-]%''',
        N'la_child_id in json_payload is made of A-Z, a-z, 0-9, _ and - only',
        N'DfE refuses the record. Mend the id in the source.'),
    (N'error', N'{staging}', N'{row}', N'{la_child_id}', N',person_id,json_payload,', 1,
        N'c.v <> N''''',
        N'la_child_id in json_payload is on one row only',
        N'Two rows for one child overwrite each other at DfE, so neither is sent. Keep one.'),
    (N'warning', N'{staging}', N'{row}', NULL, N',person_id,current_hash,', 0,
        N'r.current_hash IS NULL',
        N'current_hash is filled',
        N'The refresh never updates such a row again. The first live run fills the hash in, and the row is refreshed the night after.'),
    (N'warning', N'{staging}', N'{row}', N'submission_status', N',person_id,submission_status,', 0,
        N'c.u NOT IN (N'''', N''PENDING'', N''SENT'', N''ERROR'', N''TESTING'')',
        N'submission_status is pending, sent, error or testing',
        N'Rows with another word are held back. Set it to pending where that is not meant.'),
    (N'warning', N'{staging}', N'{row}', N'row_state', N',person_id,row_state,', 0,
        N'c.u NOT IN (N''NEW'', N''UPDATED'', N''DELETED'', N''UNCHANGED'')',
        N'row_state is new, updated, deleted or unchanged',
        N'Find out what writes the other word, or nothing: the tool treats such a row as one that is not deleted.'),
    (N'warning', N'{staging}', N'{row}', N'submission_status', N',person_id,submission_status,', 0,
        N'c.u = N''ERROR''',
        N'no row is in error',
        N'Read api_response of these rows, or ask explain with the person_id, and mend the source. They are tried again every night.'),
    (N'error', N'{staging}', N'{row}', N'submission_status', N',person_id,submission_status,last_updated,', 0,
        N'c.u = N''ERROR'' AND r.last_updated < DATEADD(DAY, -7, GETDATE())',
        N'no row is stuck in error for more than 7 days',
        N'Nobody has changed these records since they were refused, and they will be refused again. Mend them in the case system.'),
    (N'warning', N'{staging}', N'{row}', N'submission_status', N',person_id,submission_status,row_state,current_hash,previous_hash,', 0,
        N'c.u = N''SENT'' AND r.current_hash <> r.previous_hash AND r.current_hash <> CAST(0x00 AS BINARY(32))',
        N'rows marked sent have the hash that was sent',
        N'A change was not flagged as pending: the next run sends these rows.'),
    (N'warning', N'{staging}', N'{row}', N'row_state', N',person_id,row_state,submission_status,current_hash,', 0,
        N'c.u = N''DELETED'' AND UPPER(LTRIM(RTRIM(r.submission_status))) = N''SENT'' AND (r.current_hash IS NULL OR r.current_hash <> CAST(0x00 AS BINARY(32)))',
        N'no deletion waits on a row marked sent',
        N'Older senders never told DfE about these people. The next run sends their deletion: look at them first, and at MAX_DELETIONS_PERCENT.');

-- Ids of the SSD: table, column, the most characters that DfE takes, whether a record needs it.
DECLARE @ids TABLE (table_name NVARCHAR(128), id_column NVARCHAR(128), longest INT, needed BIT, whose NVARCHAR(128));
INSERT INTO @ids (table_name, id_column, longest, needed, whose)
VALUES
    (N'ssd_person', N'pers_person_id', 36, 1, N'pers_person_id'),
    (N'ssd_person', N'pers_legacy_id', 36, 0, N'pers_person_id'),
    (N'ssd_cin_episodes', N'cine_referral_id', 36, 1, N'cine_referral_id'),
    (N'ssd_cin_assessments', N'cina_assessment_id', 36, 1, N'cina_assessment_id'),
    (N'ssd_cin_plans', N'cinp_cin_plan_id', 36, 1, N'cinp_cin_plan_id'),
    (N'ssd_s47_enquiry', N's47e_s47_enquiry_id', 36, 1, N's47e_s47_enquiry_id'),
    (N'ssd_cp_plans', N'cppl_cp_plan_id', 36, 1, N'cppl_cp_plan_id'),
    (N'ssd_cla_placement', N'clap_cla_placement_id', 36, 1, N'clap_cla_placement_id'),
    (N'ssd_professionals', N'prof_social_worker_registration_no', 12, 0, N'prof_professional_id');

INSERT INTO @rules (severity, table_name, id_column, value_column, needs, condition, rule_text, advice)
SELECT N'error', i.table_name, i.whose, i.id_column, N',' + i.id_column + N',' + i.whose + N',', N'c.v = N''''',
    i.id_column + N' is not empty',
    N'DfE refuses a record without its id. Complete it in the case system.'
FROM @ids AS i
WHERE i.needed = 1;

INSERT INTO @rules (severity, table_name, id_column, value_column, needs, shared, condition, rule_text, advice)
SELECT CASE WHEN i.table_name = N'ssd_person' THEN N'error' ELSE N'warning' END,
    i.table_name, i.whose, i.id_column, N',' + i.id_column + N',' + i.whose + N',', 1, N'c.v <> N''''',
    i.id_column + N' is on one row only',
    CASE WHEN i.table_name = N'ssd_person'
        THEN N'Two people with one id cannot be told apart: neither is staged. Mend the rows.'
        ELSE N'Of rows with one id only the one with the latest start is sent. Mend the rows.' END
FROM @ids AS i
WHERE i.needed = 1;

INSERT INTO @rules (severity, table_name, id_column, value_column, needs, condition, rule_text, advice)
SELECT CASE WHEN i.longest = 12 THEN N'warning' ELSE N'error' END,
    i.table_name, i.whose, i.id_column, N',' + i.id_column + N',' + i.whose + N',',
    N'LEN(c.v) > ' + CAST(i.longest AS NVARCHAR(10)),
    i.id_column + N' has at most ' + CAST(i.longest AS NVARCHAR(10)) + N' characters',
    CASE WHEN i.longest = 12
        THEN N'The worker is left out of the record. WORKER_ID_COLUMN can name another column.'
        ELSE N'DfE refuses the whole record. Use a shorter id: cutting it would make different ids equal.' END
FROM @ids AS i;

INSERT INTO @rules (severity, table_name, id_column, value_column, needs, condition, rule_text, advice)
SELECT N'error', i.table_name, i.whose, i.id_column, N',' + i.id_column + N',' + i.whose + N',',
    N'c.v LIKE N''%[^A-Za-z0-9_-]%''',
    i.id_column + N' is made of A-Z, a-z, 0-9, _ and - only',
    N'DfE refuses the whole record. Mend the id in the case system.'
FROM @ids AS i;

-- Pairs of dates that have an order.
INSERT INTO @rules (severity, table_name, id_column, needs, condition, rule_text, advice)
SELECT N'warning', d.table_name, d.id_column,
    N',' + d.id_column + N',' + d.first_date + N',' + d.second_date + N',',
    N'CAST(r.' + d.second_date + N' AS DATE) < CAST(r.' + d.first_date + N' AS DATE)',
    d.second_date + N' is not before ' + d.first_date,
    N'A record that ended before it began belongs to no period and may be left out. Mend the dates.'
FROM (VALUES
    (N'ssd_cin_episodes', N'cine_referral_id', N'cine_referral_date', N'cine_close_date'),
    (N'ssd_cin_assessments', N'cina_assessment_id', N'cina_assessment_start_date', N'cina_assessment_auth_date'),
    (N'ssd_cin_plans', N'cinp_cin_plan_id', N'cinp_cin_plan_start_date', N'cinp_cin_plan_end_date'),
    (N'ssd_s47_enquiry', N's47e_s47_enquiry_id', N's47e_s47_start_date', N's47e_s47_end_date'),
    (N'ssd_cp_plans', N'cppl_cp_plan_id', N'cppl_cp_plan_start_date', N'cppl_cp_plan_end_date'),
    (N'ssd_cla_placement', N'clap_cla_placement_id', N'clap_cla_placement_start_date', N'clap_cla_placement_end_date'),
    (N'ssd_immigration_status', N'immi_person_id', N'immi_immigration_status_start_date',
        N'immi_immigration_status_end_date'),
    (N'ssd_permanence', N'perm_person_id', N'perm_adm_decision_date', N'perm_matched_date'),
    (N'ssd_permanence', N'perm_person_id', N'perm_matched_date', N'perm_placed_for_adoption_date'),
    (N'ssd_permanence', N'perm_person_id', N'perm_adm_decision_date', N'perm_placed_for_adoption_date'),
    (N'ssd_involvements', N'invo_referral_id', N'invo_involvement_start_date', N'invo_involvement_end_date')
) AS d (table_name, id_column, first_date, second_date);

-- Dates without which a record belongs to no period.
INSERT INTO @rules (severity, table_name, id_column, needs, condition, rule_text, advice)
SELECT N'warning', d.table_name, d.id_column, N',' + d.id_column + N',' + d.start_date + N',',
    N'r.' + d.start_date + N' IS NULL',
    d.start_date + N' is filled',
    N'Without a start the record belongs to no period and is left out. Complete it in the case system.'
FROM (VALUES
    (N'ssd_cin_episodes', N'cine_referral_id', N'cine_referral_date'),
    (N'ssd_cin_plans', N'cinp_cin_plan_id', N'cinp_cin_plan_start_date'),
    (N'ssd_s47_enquiry', N's47e_s47_enquiry_id', N's47e_s47_start_date'),
    (N'ssd_cp_plans', N'cppl_cp_plan_id', N'cppl_cp_plan_start_date'),
    (N'ssd_cla_placement', N'clap_cla_placement_id', N'clap_cla_placement_start_date')
) AS d (table_name, id_column, start_date);

-- Codes: the value in upper case, cut to its length, has to be in the list.
INSERT INTO @rules (severity, table_name, id_column, value_column, needs, condition, rule_text, advice)
SELECT N'warning', k.table_name, k.id_column, k.code_column, N',' + k.id_column + N',' + k.code_column + N',',
    N'c.v <> N'''' AND CHARINDEX(N'' '' + RTRIM(LEFT(c.u, ' + CAST(k.longest AS NVARCHAR(10)) + N')) + N'' '', N'' '
        + k.codes + N' '') = 0',
    k.code_column + N' is a code that DfE knows',
    N'Known: ' + k.codes + N'. Anything else is sent as it is, cut to ' + CAST(k.longest AS NVARCHAR(10))
        + N' characters, and may be refused.'
FROM (VALUES
    (N'ssd_person', N'pers_person_id', N'pers_ethnicity', 4,
        N'WBRI WIRI WIRT WOTH WROM MWBC MWBA MWAS MOTH AIND APKN ABAN AOTH CHNE BCRB BAFR BOTH OOTH REFU NOBT'),
    (N'ssd_disability', N'disa_person_id', N'disa_disability_code', 4,
        N'NONE MOB HAND PC INC COMM LD HEAR VIS BEH CON AUT DDA'),
    (N'ssd_cin_episodes', N'cine_referral_id', N'cine_close_reason', 3, N'RC1 RC2 RC3 RC4 RC5 RC6 RC7 RC8 RC9'),
    (N'ssd_cla_episodes', N'clae_cla_episode_id', N'clae_cla_episode_start_reason', 1, N'S L P T B U'),
    (N'ssd_cla_placement', N'clap_cla_placement_id', N'clap_cla_placement_change_reason', 6,
        N'CARPL CLOSE ALLEG STAND APPRR CREQB CREQO CHILD LAREQ PLACE CUSTOD OTHER'),
    (N'ssd_care_leavers', N'clea_person_id', N'clea_care_leaver_activity', 2, N'F1 P1 F2 P2 F4 P4 F5 P5 G4 G5 G6'),
    (N'ssd_care_leavers', N'clea_person_id', N'clea_care_leaver_accommodation', 1, N'B C D E G H K R S T U V')
) AS k (table_name, id_column, code_column, longest, codes);

INSERT INTO @rules (severity, table_name, id_column, value_column, needs, shared, condition, rule_text, advice)
VALUES
    (N'warning', N'ssd_person', N'pers_person_id', NULL, N',pers_person_id,pers_dob,pers_expected_dob,', 0,
        N'r.pers_dob IS NULL AND r.pers_expected_dob IS NULL',
        N'a person has a date of birth or an expected one',
        N'Without either the person is never in the cohort. Complete it in the case system.'),
    (N'warning', N'ssd_person', N'pers_person_id', NULL, N',pers_person_id,pers_dob,', 0,
        N'CAST(r.pers_dob AS DATE) > CAST(GETDATE() AS DATE)',
        N'pers_dob is not in the future',
        N'The person is not in the cohort until then. An expected date belongs into pers_expected_dob.'),
    (N'warning', N'ssd_person', N'pers_person_id', N'pers_sex', N',pers_person_id,pers_sex,', 0,
        N'c.u NOT IN (N'''', N''M'', N''F'', N''U'')',
        N'pers_sex is M, F or U',
        N'Anything else is sent as U.'),
    (N'warning', N'ssd_person', N'pers_person_id', N'pers_upn', N',pers_person_id,pers_upn,', 0,
        N'c.v <> N'''' AND LEN(c.v) <> 13 AND c.u NOT IN (N''UN1'', N''UN2'', N''UN3'', N''UN4'', N''UN5'', N''UN6'', N''UN7'', N''UN8'', N''UN9'', N''UN10'')',
        N'pers_upn has 13 characters',
        N'A unique pupil number of another length is left out.'),
    (N'error', N'ssd_person', N'pers_person_id', N'pers_upn', N',pers_person_id,pers_upn,', 0,
        N'LEN(c.v) = 13 AND c.v LIKE N''%[^A-Za-z0-9]%''',
        N'pers_upn is made of letters and digits only',
        N'DfE refuses the whole record. Mend the number in the case system.'),
    (N'warning', N'ssd_person', N'pers_person_id', N'pers_upn_unknown', N',pers_person_id,pers_upn_unknown,', 0,
        N'c.u NOT IN (N'''', N''UN1'', N''UN2'', N''UN3'', N''UN4'', N''UN5'', N''UN6'', N''UN7'', N''UN8'', N''UN9'', N''UN10'')',
        N'pers_upn_unknown is UN1 to UN10',
        N'Any other reason is left out.'),
    (N'warning', N'ssd_linked_identifiers', N'link_person_id', N'link_identifier_value', N',link_person_id,link_identifier_value,link_identifier_type,', 0,
        N'UPPER(LTRIM(RTRIM(r.link_identifier_type))) = N''FORMER UNIQUE PUPIL NUMBER'' AND c.v <> N'''' AND LEN(c.v) <> 13',
        N'a former unique pupil number has 13 characters',
        N'A former number of another length is left out.'),
    (N'warning', N'ssd_address', N'addr_person_id', N'addr_address_postcode', N',addr_person_id,addr_address_postcode,', 0,
        N'LEN(c.v) > 8',
        N'addr_address_postcode has at most 8 characters',
        N'A longer postcode is left out.'),
    (N'warning', N'ssd_cla_placement', N'clap_cla_placement_id', N'clap_cla_placement_postcode', N',clap_cla_placement_id,clap_cla_placement_postcode,', 0,
        N'LEN(c.v) > 8',
        N'clap_cla_placement_postcode has at most 8 characters',
        N'A longer postcode is left out.'),
    (N'warning', N'ssd_sdq_scores', N'csdq_person_id', N'csdq_sdq_score', N',csdq_person_id,csdq_sdq_score,', 0,
        N'c.v <> N'''' AND CASE WHEN STUFF(c.v, 1, CASE WHEN LEFT(c.v, 1) IN (N''+'', N''-'') THEN 1 ELSE 0 END, N'''') LIKE N''%[^0-9]%'' OR LEN(STUFF(c.v, 1, CASE WHEN LEFT(c.v, 1) IN (N''+'', N''-'') THEN 1 ELSE 0 END, N'''')) NOT BETWEEN 1 AND 9 THEN 1
            WHEN CAST(STUFF(c.v, 1, CASE WHEN LEFT(c.v, 1) IN (N''+'', N''-'') THEN 1 ELSE 0 END, N'''') AS INT) > 40 OR (LEFT(c.v, 1) = N''-'' AND CAST(STUFF(c.v, 1, CASE WHEN LEFT(c.v, 1) IN (N''+'', N''-'') THEN 1 ELSE 0 END, N'''') AS INT) > 0) THEN 1 ELSE 0 END = 1',
        N'csdq_sdq_score is a whole number of 0 to 40',
        N'The assessment is left out.'),
    (N'warning', N'ssd_cin_episodes', N'cine_referral_id', N'cine_referral_source_code', N',cine_referral_id,cine_referral_source_code,', 0,
        N'c.v <> N'''' AND NOT (c.u LIKE N''10%'' OR c.u LIKE N''[1-3][A-F]%'' OR c.u LIKE N''5[A-D]%'' OR c.u LIKE N''[46789]%'')',
        N'cine_referral_source_code begins with a code of DfE',
        N'The source of the referral is left out.'),
    (N'warning', N'ssd_cin_episodes', N'cine_referral_id', N'cine_referral_nfa', N',cine_referral_id,cine_referral_nfa,', 0,
        N'c.u NOT IN (N'''', N''1'', N''Y'', N''T'', N''TRUE'', N''0'', N''N'', N''F'', N''FALSE'')',
        N'cine_referral_nfa is yes or no',
        N'Written as 1, Y, T, TRUE or 0, N, F, FALSE; anything else is left out.'),
    (N'warning', N'ssd_assessment_factors', N'cinf_assessment_id', N'cinf_assessment_factors_json', N',cinf_assessment_id,cinf_assessment_factors_json,', 0,
        N'c.u NOT IN (N'''', N''NULL'') AND (LEFT(c.v, 1) <> N''['' OR RIGHT(RTRIM(CAST(r.cinf_assessment_factors_json AS NVARCHAR(MAX))), 1) <> N'']'')',
        N'cinf_assessment_factors_json is a JSON list',
        N'Factors that are no list are left out.'),
    (N'warning', N'ssd_s47_enquiry', N's47e_s47_enquiry_id', N's47e_s47_outcome_json', N',s47e_s47_enquiry_id,s47e_s47_outcome_json,', 0,
        N'c.u NOT IN (N'''', N''NULL'') AND CHARINDEX(N''"CP_CONFERENCE_FLAG"'', c.v) = 0',
        N's47e_s47_outcome_json has the key CP_CONFERENCE_FLAG',
        N'Whether a conference was required is left out.');

/* --- The structure --------------------------------------------------------------------------------------- */

DECLARE @real TABLE (
    table_name NVARCHAR(128) NOT NULL,
    column_name NVARCHAR(128) NOT NULL,
    data_type NVARCHAR(128) NOT NULL,
    length INT NULL
);
INSERT INTO @real (table_name, column_name, data_type, length)
SELECT N'{staging}', LOWER(i.COLUMN_NAME), LOWER(i.DATA_TYPE), i.CHARACTER_MAXIMUM_LENGTH
FROM INFORMATION_SCHEMA.COLUMNS AS i
WHERE i.TABLE_SCHEMA = @staging_schema AND i.TABLE_NAME = @staging_table
UNION ALL
SELECT LOWER(i.TABLE_NAME), LOWER(i.COLUMN_NAME), LOWER(i.DATA_TYPE), i.CHARACTER_MAXIMUM_LENGTH
FROM INFORMATION_SCHEMA.COLUMNS AS i
WHERE i.TABLE_SCHEMA = @ssd_schema AND LOWER(i.TABLE_NAME) COLLATE DATABASE_DEFAULT IN (SELECT k.table_name FROM @columns AS k);

DECLARE @missing TABLE (table_name NVARCHAR(128) NOT NULL, column_name NVARCHAR(128) NOT NULL, whole_table BIT NOT NULL);
INSERT INTO @missing (table_name, column_name, whole_table)
SELECT k.table_name, k.column_name,
    CASE WHEN EXISTS (SELECT 1 FROM @real AS x WHERE x.table_name = k.table_name) THEN 0 ELSE 1 END
FROM @columns AS k
WHERE NOT EXISTS (SELECT 1 FROM @real AS x WHERE x.table_name = k.table_name AND x.column_name = k.column_name);

DECLARE @structure TABLE (rule_text NVARCHAR(200) NOT NULL, example NVARCHAR(300) NOT NULL);
INSERT INTO @structure (rule_text, example)
SELECT DISTINCT N'the staging table exists', @staging_schema + N'.' + @staging_table
FROM @missing AS m
WHERE m.table_name = N'{staging}' AND m.whole_table = 1
UNION ALL
SELECT N'the staging table has every column', m.column_name
FROM @missing AS m
INNER JOIN @columns AS k ON k.table_name = m.table_name AND k.column_name = m.column_name
WHERE m.table_name = N'{staging}' AND m.whole_table = 0 AND k.required = 1
UNION ALL
SELECT N'the staging table has the columns id and legacy_id', m.column_name
FROM @missing AS m
INNER JOIN @columns AS k ON k.table_name = m.table_name AND k.column_name = m.column_name
WHERE m.table_name = N'{staging}' AND m.whole_table = 0 AND k.required = 0
UNION ALL
SELECT N'the columns of the staging table have types that the tool can use', x.column_name + N' (' + x.data_type + N')'
FROM @real AS x
INNER JOIN @columns AS k ON k.table_name = x.table_name AND k.column_name = x.column_name
WHERE k.types IS NOT NULL AND CHARINDEX(N',' + x.data_type + N',', k.types) = 0
UNION ALL
SELECT N'the columns of the staging table are wide enough', x.column_name + N' (' + CAST(x.length AS NVARCHAR(20)) + N')'
FROM @real AS x
INNER JOIN @columns AS k ON k.table_name = x.table_name AND k.column_name = x.column_name
WHERE x.length > 0 AND x.length < k.least
UNION ALL
SELECT N'the submission log and the baseline exist', w.table_name
FROM (VALUES (N'ssd_api_submission_log'), (N'ssd_api_baseline')) AS w (table_name)
WHERE NOT EXISTS (
    SELECT 1 FROM INFORMATION_SCHEMA.TABLES AS i
    WHERE i.TABLE_SCHEMA = @staging_schema
        AND LOWER(i.TABLE_NAME) COLLATE DATABASE_DEFAULT IN (w.table_name, w.table_name + N'_anon')
        AND CASE WHEN LOWER(i.TABLE_NAME) LIKE N'%[_]anon' THEN 1 ELSE 0 END
            = CASE WHEN LOWER(@staging_table) LIKE N'%[_]anon' THEN 1 ELSE 0 END
)
UNION ALL
SELECT DISTINCT N'every SSD table exists', m.table_name
FROM @missing AS m
WHERE m.table_name <> N'{staging}' AND m.whole_table = 1
UNION ALL
SELECT N'every SSD table has its columns', m.table_name + N'.' + m.column_name
FROM @missing AS m
WHERE m.table_name <> N'{staging}' AND m.whole_table = 0
UNION ALL
SELECT N'dates of the SSD are kept as dates', x.table_name + N'.' + x.column_name
FROM @real AS x
INNER JOIN @columns AS k ON k.table_name = x.table_name AND k.column_name = x.column_name
WHERE x.table_name <> N'{staging}'
    AND (x.column_name LIKE N'%[_]date' OR x.column_name LIKE N'%[_]dob' OR x.column_name LIKE N'%[_]contact')
    AND x.data_type NOT IN (N'date', N'datetime', N'datetime2', N'smalldatetime', N'datetimeoffset');

DECLARE @answers TABLE (
    rule_no INT NOT NULL PRIMARY KEY,
    result NVARCHAR(20) NOT NULL,
    found INT NULL,
    examples NVARCHAR(600) NULL,
    why NVARCHAR(400) NULL
);

-- No aggregate meets a NULL here or below: a warning for each would bury the answer's messages.
INSERT INTO @answers (rule_no, result, found, examples)
SELECT a.rule_no, CASE WHEN MAX(ISNULL(b.place, 0)) = 0 THEN N'ok' ELSE N'problem' END, MAX(ISNULL(b.place, 0)),
    STUFF(
        MAX(CASE WHEN b.place = 1 THEN N', ' + b.example ELSE N'' END)
        + MAX(CASE WHEN b.place = 2 THEN N', ' + b.example ELSE N'' END)
        + MAX(CASE WHEN b.place = 3 THEN N', ' + b.example ELSE N'' END)
        + MAX(CASE WHEN b.place = 4 THEN N', ' + b.example ELSE N'' END)
        + MAX(CASE WHEN b.place = 5 THEN N', ' + b.example ELSE N'' END),
        1, 2, N'')
FROM @rules AS a
LEFT JOIN (
    SELECT s.rule_text, s.example, ROW_NUMBER() OVER (PARTITION BY s.rule_text ORDER BY s.example) AS place
    FROM @structure AS s
) AS b ON b.rule_text = a.rule_text
WHERE a.id_column IS NULL
GROUP BY a.rule_no;

-- Without the staging table there is nothing to say about its columns.
UPDATE @answers
SET result = N'not checked', found = NULL, why = N'The staging table does not exist here.'
WHERE rule_no IN (SELECT a.rule_no FROM @rules AS a WHERE a.id_column IS NULL AND a.rule_text LIKE N'%staging table ha%'
        OR a.rule_text LIKE N'the columns of the staging table%')
    AND EXISTS (SELECT 1 FROM @missing AS m WHERE m.table_name = N'{staging}' AND m.whole_table = 1);

-- The rules that need what does not exist here.
INSERT INTO @answers (rule_no, result, why)
SELECT n.rule_no, N'not checked',
    CASE WHEN n.whole_table = 1 THEN N'The table ' + n.place + N' does not exist here, or this login cannot see it.'
        ELSE N'The table ' + n.place + N' has no column ' + n.column_name + N'.' END
FROM (
    SELECT a.rule_no, MIN(m.column_name) AS column_name, MAX(CAST(m.whole_table AS INT)) AS whole_table,
        CASE WHEN a.table_name = N'{staging}' THEN @staging_schema + N'.' + @staging_table
            ELSE @ssd_schema + N'.' + a.table_name END AS place
    FROM @rules AS a
    INNER JOIN @missing AS m ON m.table_name = a.table_name
        AND CHARINDEX(N',' + m.column_name + N',', a.needs) > 0
    GROUP BY a.rule_no, a.table_name
) AS n;

/* --- The rows -------------------------------------------------------------------------------------------- */

DECLARE @rule_no INT = 0, @table NVARCHAR(300), @row_id BIT, @id_column NVARCHAR(128), @value_column NVARCHAR(128),
    @condition NVARCHAR(2000), @shared BIT, @value NVARCHAR(MAX), @example NVARCHAR(MAX), @statement NVARCHAR(MAX),
    @found INT, @examples NVARCHAR(600), @error INT;
SET @row_id = CASE WHEN EXISTS (SELECT 1 FROM @real AS x WHERE x.table_name = N'{staging}' AND x.column_name = N'id')
    THEN 1 ELSE 0 END;

WHILE 1 = 1
BEGIN
    SELECT @rule_no = MIN(a.rule_no)
    FROM @rules AS a
    WHERE NOT EXISTS (SELECT 1 FROM @answers AS w WHERE w.rule_no = a.rule_no);
    IF @rule_no IS NULL BREAK;

    SELECT @id_column = a.id_column, @value_column = a.value_column, @condition = a.condition, @shared = a.shared,
        @table = CASE WHEN a.table_name = N'{staging}' THEN QUOTENAME(@staging_schema) + N'.' + QUOTENAME(@staging_table)
            ELSE QUOTENAME(@ssd_schema) + N'.' + QUOTENAME(a.table_name) END
    FROM @rules AS a
    WHERE a.rule_no = @rule_no;

    -- A value without the white space around it; a text of la_child_id is cut out of the payload, JSON functions
    -- being younger than SQL Server 2012.
    SET @value = CASE
        WHEN @value_column IS NULL THEN N'N'''''
        WHEN @value_column = N'{la_child_id}' THEN N'CASE WHEN CHARINDEX(N''"la_child_id"'', CAST(r.json_payload AS NVARCHAR(MAX))) = 0
                OR LEFT(LTRIM(REPLACE(SUBSTRING(CAST(r.json_payload AS NVARCHAR(MAX)),
                    CHARINDEX(N''"la_child_id"'', CAST(r.json_payload AS NVARCHAR(MAX))) + 13, 100), N'':'', N'' '')), 1) <> N''"''
                THEN N'''' ELSE SUBSTRING(LTRIM(REPLACE(SUBSTRING(CAST(r.json_payload AS NVARCHAR(MAX)),
                    CHARINDEX(N''"la_child_id"'', CAST(r.json_payload AS NVARCHAR(MAX))) + 13, 100), N'':'', N'' '')), 2,
                    CHARINDEX(N''"'', LTRIM(REPLACE(SUBSTRING(CAST(r.json_payload AS NVARCHAR(MAX)),
                    CHARINDEX(N''"la_child_id"'', CAST(r.json_payload AS NVARCHAR(MAX))) + 13, 100), N'':'', N'' '')) + N''"'', 2) - 2) END'
        ELSE N'ISNULL(CAST(r.' + QUOTENAME(@value_column) + N' AS NVARCHAR(4000)), N'''')' END;
    SET @value = N'LTRIM(RTRIM(REPLACE(REPLACE(REPLACE(REPLACE(' + @value
        + N', NCHAR(9), N'' ''), NCHAR(10), N'' ''), NCHAR(13), N'' ''), NCHAR(160), N'' '')))';
    SET @example = CASE
        WHEN @id_column <> N'{row}' THEN N'NULLIF(LTRIM(RTRIM(LEFT(CAST(r.' + QUOTENAME(@id_column) + N' AS NVARCHAR(200)), 60))), N'''')'
        WHEN @row_id = 1 THEN N'ISNULL(NULLIF(LTRIM(RTRIM(LEFT(CAST(r.person_id AS NVARCHAR(200)), 60))), N''''), N''row '' + CAST(r.id AS NVARCHAR(20)))'
        ELSE N'NULLIF(LTRIM(RTRIM(LEFT(CAST(r.person_id AS NVARCHAR(200)), 60))), N'''')' END;
    SET @statement = N'BEGIN TRY
        SELECT @found = COUNT(*), @examples = STUFF(
            MAX(CASE WHEN p.place = 1 THEN N'', '' + p.example ELSE N'''' END)
            + MAX(CASE WHEN p.place = 2 THEN N'', '' + p.example ELSE N'''' END)
            + MAX(CASE WHEN p.place = 3 THEN N'', '' + p.example ELSE N'''' END)
            + MAX(CASE WHEN p.place = 4 THEN N'', '' + p.example ELSE N'''' END)
            + MAX(CASE WHEN p.place = 5 THEN N'', '' + p.example ELSE N'''' END),
            1, 2, N'''')
        FROM (
            SELECT f.example, DENSE_RANK() OVER (ORDER BY f.example) AS place
            FROM (
                SELECT ISNULL(' + @example + N', N''(no id)'') AS example, '
        + CASE WHEN @shared = 1 THEN N'COUNT(*) OVER (PARTITION BY c.v COLLATE DATABASE_DEFAULT)' ELSE N'2' END + N' AS alike
                FROM ' + @table + N' AS r
                CROSS APPLY (SELECT ' + @value + N' COLLATE Latin1_General_BIN2 AS v, UPPER(' + @value
        + N') COLLATE Latin1_General_BIN2 AS u) AS c
                WHERE ' + @condition + N'
            ) AS f
            WHERE f.alike > 1
        ) AS p;
        END TRY
        BEGIN CATCH
            SET @error = ERROR_NUMBER();
        END CATCH;';

    SELECT @found = NULL, @examples = NULL, @error = NULL;
    BEGIN TRY
        EXEC sp_executesql @statement, N'@found INT OUTPUT, @examples NVARCHAR(600) OUTPUT, @error INT OUTPUT',
            @found = @found OUTPUT, @examples = @examples OUTPUT, @error = @error OUTPUT;
    END TRY
    BEGIN CATCH
        SET @error = ERROR_NUMBER(); -- not its text, which may quote what a row holds
    END CATCH;

    INSERT INTO @answers (rule_no, result, found, examples, why)
    VALUES (
        @rule_no,
        CASE WHEN @error IS NOT NULL THEN N'not checked' WHEN @found > 0 THEN N'problem' ELSE N'ok' END,
        @found,
        @examples,
        CASE WHEN @error IN (229, 230) THEN N'This login may not read ' + @table + N'.'
            WHEN @error = 1222 THEN N'Another job holds ' + @table + N'. Try again later.'
            WHEN @error IS NOT NULL THEN N'SQL Server could not check this: error ' + CAST(@error AS NVARCHAR(10)) + N'.' END
    );
END;

/* --- The answer ------------------------------------------------------------------------------------------ */

SELECT
    w.result,
    a.severity,
    REPLACE(a.table_name, N'{staging}', @staging_table) AS [table],
    a.rule_text AS [rule],
    w.found AS [count],
    w.examples AS [example ids],
    CASE WHEN w.result = N'ok' THEN N'' WHEN w.result = N'not checked' THEN w.why ELSE a.advice END AS [what to do]
FROM @rules AS a
INNER JOIN @answers AS w ON w.rule_no = a.rule_no
ORDER BY
    CASE w.result WHEN N'problem' THEN 0 WHEN N'not checked' THEN 1 ELSE 2 END,
    CASE a.severity WHEN N'error' THEN 0 ELSE 1 END,
    a.rule_no;
SET LOCK_TIMEOUT -1;
