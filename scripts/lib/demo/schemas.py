"""The two databases of the demo: FRK (work plans) and FED (self-evaluations), with first data."""

FRK = """
CREATE TABLE dosen (
    id serial PRIMARY KEY, nidn text UNIQUE NOT NULL, nama text NOT NULL, jabatan text NOT NULL, prodi text NOT NULL);
CREATE TABLE semester (
    id serial PRIMARY KEY, kode text UNIQUE NOT NULL, mulai date NOT NULL, selesai date NOT NULL);
CREATE TABLE rencana_kerja (
    id bigserial PRIMARY KEY, dosen_id int NOT NULL REFERENCES dosen, semester_id int NOT NULL REFERENCES semester,
    status text NOT NULL DEFAULT 'draf' CHECK (status IN ('draf', 'diajukan', 'disetujui', 'ditolak')),
    dibuat timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE kegiatan (
    id bigserial PRIMARY KEY, rencana_id bigint NOT NULL REFERENCES rencana_kerja,
    bidang text NOT NULL CHECK (bidang IN ('pendidikan', 'penelitian', 'pengabdian', 'penunjang')),
    uraian text NOT NULL, sks numeric(4,1) NOT NULL, dibuat timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON kegiatan (rencana_id);
CREATE TABLE persetujuan (
    id bigserial PRIMARY KEY, rencana_id bigint NOT NULL REFERENCES rencana_kerja, asesor_id int NOT NULL REFERENCES dosen,
    keputusan text NOT NULL, catatan text NOT NULL, waktu timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO dosen (nidn, nama, jabatan, prodi)
    SELECT to_char(n, 'FM0000000000'), 'Dosen ' || n,
           (ARRAY['Asisten Ahli', 'Lektor', 'Lektor Kepala', 'Guru Besar'])[1 + n % 4],
           (ARRAY['Informatika', 'Elektro', 'Fisika', 'Matematika', 'Kimia'])[1 + n % 5]
    FROM generate_series(1, 400) n;
INSERT INTO semester (kode, mulai, selesai)
    SELECT 'S' || n, date '2020-02-01' + n * 182, date '2020-02-01' + n * 182 + 150 FROM generate_series(1, 14) n;
INSERT INTO rencana_kerja (dosen_id, semester_id, status)
    SELECT d, s, 'disetujui' FROM generate_series(1, 400) d, generate_series(1, 13) s;
INSERT INTO kegiatan (rencana_id, bidang, uraian, sks)
    SELECT r, (ARRAY['pendidikan', 'penelitian', 'pengabdian', 'penunjang'])[k],
           'Kegiatan ' || k || ' untuk rencana ' || r || ': ' || md5((r * k)::text) || md5((r + k)::text), 0.5 + r % 6
    FROM generate_series(1, 5200) r, generate_series(1, 4) k;
"""

FED = """
CREATE TABLE evaluasi_diri (
    id bigserial PRIMARY KEY, nidn text NOT NULL, semester text NOT NULL, status text NOT NULL DEFAULT 'draf',
    dibuat timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE realisasi (
    id bigserial PRIMARY KEY, evaluasi_id bigint NOT NULL REFERENCES evaluasi_diri, bidang text NOT NULL,
    uraian text NOT NULL, sks numeric(4,1) NOT NULL, dibuat timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE bukti (
    id bigserial PRIMARY KEY, realisasi_id bigint NOT NULL REFERENCES realisasi, nama_berkas text NOT NULL,
    isi bytea NOT NULL, dibuat timestamptz NOT NULL DEFAULT clock_timestamp());
ALTER TABLE bukti ALTER isi SET STORAGE EXTERNAL;
CREATE TABLE penilaian (
    id bigserial PRIMARY KEY, evaluasi_id bigint NOT NULL, asesor text NOT NULL, skor numeric(5,2) NOT NULL,
    putusan text NOT NULL, waktu timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO evaluasi_diri (nidn, semester, status)
    SELECT to_char(n % 400, 'FM0000000000'), 'S' || 1 + n % 13, 'final' FROM generate_series(1, 3000) n;
INSERT INTO realisasi (evaluasi_id, bidang, uraian, sks)
    SELECT e, (ARRAY['pendidikan', 'penelitian', 'pengabdian', 'penunjang'])[1 + e % 4], 'Realisasi ' || md5(e::text), 1 + e % 5
    FROM generate_series(1, 3000) e;
INSERT INTO bukti (realisasi_id, nama_berkas, isi)
    SELECT r, 'bukti-' || r || '.pdf', (SELECT string_agg(sha256((r * 1000 + k)::text::bytea), ''::bytea) FROM generate_series(1, 320) k)
    FROM generate_series(1, 3000) r;
INSERT INTO penilaian (evaluasi_id, asesor, skor, putusan)
    SELECT e, 'Asesor ' || e % 37, 60 + e % 40, 'memenuhi' FROM generate_series(1, 3000) e;
"""
