// What a node program does with its database. Prints what it sees; run directly and through the proxy.
//     mysql2_client.js HOST PORT SOCKET
const mysql = require('mysql2/promise');
const [host, port, socketPath] = process.argv.slice(2);

const say = (...what) => console.log(JSON.stringify(what, (key, value) =>
  key === 'stack' ? undefined : Buffer.isBuffer(value) ? value.toString('hex').slice(0, 64) : value));

async function attempt(conn, how, sql, args) {
  try {
    const [rows, fields] = await conn[how](sql, args);
    const columns = Array.isArray(fields) ? fields.filter(Boolean).map((f) => [f.name, f.columnType, f.flags]) : null;
    say(how, sql.slice(0, 60), rows, columns);
  } catch (error) {
    say(how, sql.slice(0, 60), error.code, error.errno, error.sqlState, error.message);
  }
}

async function play(where) {
  const options = { ...where, user: 'app', password: 'pw', database: 'app', multipleStatements: true, charset: 'utf8mb4' };
  const conn = await mysql.createConnection(options);
  await attempt(conn, 'query', 'SELECT USER(), DATABASE()');
  await attempt(conn, 'query', 'DROP TABLE IF EXISTS t');
  await attempt(conn, 'query', 'CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT, b BLOB, d DATETIME, n DECIMAL(10,3), j JSON)');
  await attempt(conn, 'query', 'INSERT INTO t (v, b, n, j) VALUES (?, ?, ?, ?)', ['ä🎈', Buffer.from([0, 255, 39]), '1.5', '{"a": 1}']);
  await attempt(conn, 'execute', 'INSERT INTO t (v) VALUES (?)', ['prepared']);
  await attempt(conn, 'execute', 'SELECT * FROM t WHERE id >= ?', [1]);
  await attempt(conn, 'query', 'SELECT * FROM t');
  await conn.beginTransaction();
  await attempt(conn, 'execute', 'UPDATE t SET v = ?', ['changed']);
  await attempt(conn, 'query', 'SELECT v FROM t');
  await conn.rollback();
  await attempt(conn, 'query', 'SELECT v FROM t');
  await conn.beginTransaction();
  await attempt(conn, 'execute', 'DELETE FROM t WHERE id = ?', [1]);
  await conn.commit();
  await attempt(conn, 'execute', 'SELECT COUNT(*) AS c FROM t', []);
  await attempt(conn, 'query', 'SELECT 1 AS a; SELECT 2 AS b; SELEKT');
  await attempt(conn, 'query', 'SELECT 1 AS a; SELECT 2 AS b');
  await attempt(conn, 'query', 'SELECT * FROM nowhere');
  await attempt(conn, 'execute', 'SELECT nothing', []);
  await attempt(conn, 'query', 'DROP PROCEDURE IF EXISTS p');
  await attempt(conn, 'query', 'CREATE PROCEDURE p(a INT) BEGIN SELECT a; SELECT a + 1; END');
  await attempt(conn, 'query', 'CALL p(?)', [4]);
  await attempt(conn, 'execute', 'CALL p(?)', [5]);
  for (let i = 0; i < 50; i++) await conn.execute('INSERT INTO t (v) VALUES (?)', [`row ${i}`]);
  await attempt(conn, 'query', 'SELECT COUNT(*) AS c, MAX(id) AS m FROM t');
  const [rows] = await conn.query('SELECT a.id AS x, b.id AS y FROM t a, t b, t c LIMIT 20000');
  say(rows.length, rows[0]);
  // Several at once: mysql2 queues them, and answers must not be mixed up.
  const all = await Promise.all([...Array(20).keys()].map((i) => conn.query('SELECT ? AS n', [i])));
  say(all.map(([rows]) => rows[0].n));
  await conn.ping();
  await conn.changeUser({ user: 'guest', password: 'guest pw', database: 'app' });
  await attempt(conn, 'query', 'SELECT CURRENT_USER() AS u');
  await attempt(conn, 'query', 'CREATE TABLE u (id INT)');
  await conn.end();
  for (const wrong of [{ password: 'wrong' }, { user: 'nobody' }, { database: 'nowhere' }]) {
    try {
      await mysql.createConnection({ ...options, ...wrong });
      say('connected', wrong);
    } catch (error) {
      say(wrong, error.code, error.errno);
    }
  }
}

play({ host, port: Number(port) }).then(() => play({ socketPath })).catch((error) => {
  say('failed', error.message);
  process.exit(1);
});
