"""What a Python program does with its database. Prints what it sees; run directly and through the proxy.

    python_client.py MODULE HOST PORT SOCKET     MODULE: pymysql, mysql.connector or MySQLdb
"""
import importlib
import sys

module_name, host, port, socket = sys.argv[1:5]
module = importlib.import_module(module_name)


def connect(**more):
    options = dict(user="app", password="pw", database="app", charset="utf8mb4")
    options.update(more)
    if module_name == "MySQLdb":
        options["passwd"] = options.pop("password")
        options["db"] = options.pop("database")
    if module_name == "mysql.connector":
        options["use_pure"] = True
        options["ssl_disabled"] = not options.pop("tls", False)
        options["allow_local_infile"] = True
    else:
        options.pop("tls", None)
        if module_name == "pymysql":
            options["local_infile"] = True
    if options.pop("unix", False):
        options["unix_socket"] = socket
    else:
        options.update(host=host, port=int(port))
    return module.connect(**options)


def say(*what):
    print(*[repr(part) for part in what], flush=True)


def attempt(cursor, sql, args=None):
    try:
        cursor.execute(sql, args)
        rows = cursor.fetchall() if cursor.description else None
        columns = [column[:2] for column in cursor.description] if cursor.description else None
        say(sql[:60], columns, rows, cursor.rowcount, cursor.lastrowid)
    except module.Error as error:
        say(sql[:60], type(error).__name__, error.args)


for unix in (False, True):
    conn = connect(unix=unix)
    cursor = conn.cursor()
    attempt(cursor, "SELECT USER(), DATABASE(), @@autocommit, @@character_set_client")
    attempt(cursor, "DROP TABLE IF EXISTS t")
    attempt(cursor, "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT, b LONGBLOB, d DATETIME, n DECIMAL(10,3))")
    attempt(cursor, "INSERT INTO t (v, b, d, n) VALUES (%s, %s, %s, %s)", ("ä🎈", b"\x00\xff'\\", "2026-11-23 01:02:03", "1.5"))
    attempt(cursor, "INSERT INTO t (v) VALUES (%s), (%s)", ("x", None))
    conn.commit()
    attempt(cursor, "SELECT * FROM t")
    attempt(cursor, "SELECT id, v FROM t WHERE id > %s", (1,))
    attempt(cursor, "UPDATE t SET v = %s", ("changed",))
    attempt(cursor, "SELECT COUNT(*) FROM t WHERE v = 'changed'")
    conn.rollback()
    attempt(cursor, "SELECT COUNT(*) FROM t WHERE v = 'changed'")
    attempt(cursor, "SELECT LAST_INSERT_ID()")
    attempt(cursor, "SELEKT")
    attempt(cursor, "SELECT * FROM nowhere")
    attempt(cursor, "INSERT INTO t (id) VALUES (1)")
    attempt(cursor, "SELECT 1/0")
    attempt(cursor, "SHOW WARNINGS")
    cursor.executemany("INSERT INTO t (v) VALUES (%s)", [(str(i),) for i in range(200)])
    conn.commit()
    attempt(cursor, "SELECT COUNT(*), MAX(id) FROM t")
    attempt(cursor, "CREATE PROCEDURE p" + str(int(unix)) + "(a INT) BEGIN SELECT a; SELECT a + 1; END")
    cursor.execute("CALL p" + str(int(unix)) + "(4)" if module_name != "mysql.connector" else "SELECT 4")
    say(cursor.fetchall())
    while module_name != "mysql.connector" and cursor.nextset():
        if cursor.description:
            say(cursor.fetchall())
    attempt(cursor, "INSERT INTO t (b) VALUES (%s)", (bytes(range(256)) * 4096,))
    attempt(cursor, "SELECT LENGTH(b), MD5(b) FROM t ORDER BY id DESC LIMIT 1")
    cursor.execute("SELECT a.id, b.id, REPEAT('x', 50) FROM t a, t b")
    rows = cursor.fetchall()
    say(len(rows), rows[0], rows[-1])
    conn.ping()
    conn.select_db("other") if hasattr(conn, "select_db") else conn.cmd_init_db("other")
    attempt(cursor, "SELECT * FROM here")
    if module_name == "mysql.connector":
        cursor.close()
        cursor = conn.cursor(prepared=True)
        attempt(cursor, "SELECT ?, ?, ?", (1, "ä", None))
        attempt(cursor, "SELECT id FROM app.t WHERE id < ?", (4,))
        conn.cmd_reset_connection()
        cursor = conn.cursor()
        attempt(cursor, "SELECT DATABASE(), @@autocommit")
        conn.cmd_change_user("app", "pw", "app")
        attempt(cursor, "SELECT CURRENT_USER()")
    cursor.close()
    conn.close()
    for wrong in (dict(password="wrong"), dict(user="nobody"), dict(database="nowhere")):
        try:
            connect(unix=unix, **wrong)
            say("connected", wrong)
        except module.Error as error:
            say(wrong, type(error).__name__, error.args[0])
