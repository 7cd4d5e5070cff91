-- Forms with text, attachments that do not compress, many small tables. psql -v forms=… -v attachments=… -v tables=…
-- About 2:1 with zstd 3; 1,500,000 forms, 10,000 attachments and 2,000 tables are 1.8 GB in 13,000 files.
SELECT setseed(0.42);
-- A vocabulary of 3,000 pseudo-Latin words.
CREATE TABLE words AS SELECT i, (SELECT string_agg(substr('aeiouaeio bcdlmnprstv', 1+((hashint8(i*31+k)&2147483647)%9),1) || substr('bcdlmnprstvqfg', 1+((hashint8(i*17+k*7)&2147483647)%14),1),'') FROM generate_series(1,1+i%4) k) AS w FROM generate_series(1,3000) i;
CREATE FUNCTION lorem(n int) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE a text[] := (SELECT array_agg(w) FROM words); r text := ''; BEGIN
 FOR k IN 1..n LOOP r := r || a[1 + floor(random()*random()*3000)::int] || ' '; END LOOP; RETURN r; END $$;
-- 20,000 fragments of text; each form has three of them and values of its own.
CREATE UNLOGGED TABLE frag AS SELECT i, lorem(22) t FROM generate_series(1,20000) i;
ALTER TABLE frag ADD PRIMARY KEY (i);
ANALYZE frag;
CREATE TABLE forms (id uuid PRIMARY KEY, payload jsonb NOT NULL, created timestamptz NOT NULL, modified timestamptz NOT NULL, state text);
INSERT INTO forms SELECT gen_random_uuid(), jsonb_build_object('name', a.t, 'remark', b.t, 'answer', c.t, 'n', g.n, 'score', random(), 'token', md5(g.n::text||random())), now()-random()*interval '1000 d', now(), (ARRAY['draft','sent','paid','void'])[1+floor(random()*4)]
 FROM (SELECT n, 1+floor(random()*20000)::int x, 1+floor(random()*20000)::int y, 1+floor(random()*20000)::int z FROM generate_series(1, :forms) n) g JOIN frag a ON a.i=g.x JOIN frag b ON b.i=g.y JOIN frag c ON c.i=g.z;
CREATE INDEX ON forms (created);
CREATE EXTENSION pgcrypto;
CREATE TABLE attachments (id bigserial PRIMARY KEY, form uuid, name text, body bytea);
ALTER TABLE attachments ALTER body SET STORAGE EXTERNAL;
INSERT INTO attachments (form, name, body) SELECT gen_random_uuid(), 'scan'||n||'.pdf', (SELECT string_agg(gen_random_bytes(1000+(n+k)%24),''::bytea) FROM generate_series(1,50) k) FROM generate_series(1, :attachments) n;
DROP TABLE frag;
SELECT format('CREATE TABLE t_%s (id int PRIMARY KEY, v text)', i), format('INSERT INTO t_%s SELECT g, md5(g::text) FROM generate_series(1,5) g', i) FROM generate_series(1, :tables) i \gexec
VACUUM ANALYZE;
CHECKPOINT;
