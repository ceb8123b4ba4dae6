-- The two databases of an installation, each with a role that owns nothing else. Can be repeated: a password that
-- has changed is set anew, nothing is dropped.
--
--     export EHR_DAGSTER_PASSWORD=... EHR_MLFLOW_PASSWORD=...
--     psql -h HOST -U postgres -v ON_ERROR_STOP=1 -f infra/postgres/databases.sql
--
-- Tables are made by Dagster and MLflow when they first connect. The passwords reach neither the command line nor
-- this file; see docs/operations/storage.md for what the product is then told.

\set dagster_password `printf %s "$EHR_DAGSTER_PASSWORD"`
\set mlflow_password `printf %s "$EHR_MLFLOW_PASSWORD"`

-- A failed statement is logged by the server with its text: the session's are not, since two hold passwords.
SET log_min_error_statement = panic;
SET log_statement = 'none';

SELECT 'CREATE ROLE dagster LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dagster') \gexec
SELECT 'CREATE ROLE mlflow LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mlflow') \gexec
ALTER ROLE dagster PASSWORD :'dagster_password';
ALTER ROLE mlflow PASSWORD :'mlflow_password';

SELECT 'CREATE DATABASE dagster OWNER dagster' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'dagster') \gexec
SELECT 'CREATE DATABASE mlflow OWNER mlflow' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'mlflow') \gexec
REVOKE ALL ON DATABASE dagster, mlflow FROM PUBLIC;
