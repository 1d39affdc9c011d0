-- Two roles beside the superuser: `sync_owner` migrates, `sync_service` serves and copies, and can't alter the audit log.
-- The image of PostgreSQL runs this when it makes a new database. For one that is there already, and after a change of a
-- password: docker compose exec postgres psql -U registry_sync -v ON_ERROR_STOP=1 -f /docker-entrypoint-initdb.d/roles.sql
\if :{?secrets}
\else
  \set secrets /run/secrets
\endif
\set owner_password `cat :secrets/sync_owner_password`
\set service_password `cat :secrets/sync_service_password`
SELECT 1 / least(length(:'owner_password'), length(:'service_password'), 1) AS passwords_are_there \gset

BEGIN;
SELECT format('CREATE ROLE %I', wanted) FROM unnest(ARRAY['sync_owner', 'sync_service']) AS wanted
  WHERE wanted NOT IN (SELECT rolname FROM pg_roles) \gexec
ALTER ROLE sync_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'owner_password';
ALTER ROLE sync_service LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'service_password';

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO sync_owner, sync_service;
ALTER SCHEMA public OWNER TO sync_owner;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO sync_service;

-- What a release before made as the superuser becomes the owner's; sequences of columns go with their tables.
SELECT format('ALTER TABLE public.%I OWNER TO sync_owner', tablename) FROM pg_tables WHERE schemaname = 'public' \gexec
SELECT format('ALTER ROUTINE %s OWNER TO sync_owner', oid::regprocedure) FROM pg_proc
  WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'event_trigger'::regtype \gexec

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sync_service;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO sync_service;
ALTER DEFAULT PRIVILEGES FOR ROLE sync_owner IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO sync_service;
ALTER DEFAULT PRIVILEGES FOR ROLE sync_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO sync_service;
SELECT format('REVOKE UPDATE, DELETE ON public.%I FROM sync_service', tablename) FROM pg_tables
  WHERE schemaname = 'public' AND tablename IN ('audit_log', 'audit_links') \gexec

-- The tables of the audit log are made later, by `migrate`: it takes the rights away as soon as they are there.
CREATE OR REPLACE FUNCTION public.keep_audit_log() RETURNS event_trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  made text;
BEGIN
  FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands()
    WHERE object_type = 'table' AND object_identity IN ('public.audit_log', 'public.audit_links')
  LOOP
    EXECUTE 'REVOKE UPDATE, DELETE ON ' || made || ' FROM sync_service';
  END LOOP;
END
$$;
DROP EVENT TRIGGER IF EXISTS audit_log_is_kept;
CREATE EVENT TRIGGER audit_log_is_kept ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
  EXECUTE FUNCTION public.keep_audit_log();
COMMIT;
