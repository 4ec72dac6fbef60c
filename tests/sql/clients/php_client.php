<?php
// What a PHP program does with its database. Prints what it sees; run directly and through the proxy.
//     php_client.php MODULE HOST PORT SOCKET     MODULE: mysqli or pdo
[, $module, $host, $port, $socket] = $argv;
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);

function say(...$what) { echo json_encode($what, JSON_UNESCAPED_UNICODE | JSON_PARTIAL_OUTPUT_ON_ERROR), "\n"; }

function with_mysqli($host, $port, $socket) {
    $connect = fn($user = 'app', $password = 'pw', $database = 'app') =>
        new mysqli($socket === null ? $host : 'localhost', $user, $password, $database, (int) $port, $socket);
    $conn = $connect();
    $conn->set_charset('utf8mb4');
    $attempt = function ($sql) use ($conn) {
        try {
            $result = $conn->query($sql);
            $rows = $result instanceof mysqli_result ? $result->fetch_all(MYSQLI_ASSOC) : $result;
            say($sql, $rows, $conn->affected_rows, $conn->insert_id, $conn->warning_count, $conn->info);
        } catch (mysqli_sql_exception $e) {
            say($sql, $e->getCode(), $conn->sqlstate, $e->getMessage());
        }
    };
    $attempt('SELECT USER(), DATABASE()');
    $attempt('DROP TABLE IF EXISTS t');
    $attempt('CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT, n DECIMAL(10,3), d DATETIME)');
    $attempt("INSERT INTO t (v, n, d) VALUES ('ä🎈', 1.5, '2026-11-23 01:02:03'), (NULL, NULL, NULL)");
    $attempt('SELECT * FROM t');
    $attempt('UPDATE t SET n = 2');
    $attempt('SELEKT');
    $attempt('SELECT * FROM nowhere');
    $attempt('SELECT 1/0');
    $attempt('SHOW WARNINGS');
    $conn->begin_transaction();
    $attempt('DELETE FROM t');
    $attempt('SELECT COUNT(*) FROM t');
    $conn->rollback();
    $attempt('SELECT COUNT(*) FROM t');
    $conn->autocommit(false);
    $attempt('INSERT INTO t (v) VALUES (1)');
    $conn->commit();
    $conn->autocommit(true);
    $statement = $conn->prepare('INSERT INTO t (v, n) VALUES (?, ?)');
    foreach ([['a', 1.25], ['b', null]] as [$v, $n]) {
        $statement->bind_param('sd', $v, $n);
        $statement->execute();
        say($statement->affected_rows, $statement->insert_id);
    }
    $statement = $conn->prepare('SELECT id, v, n, d FROM t WHERE id > ?');
    $least = 0;
    $statement->bind_param('i', $least);
    $statement->execute();
    say($statement->get_result()->fetch_all(MYSQLI_NUM));
    $blob = $conn->prepare('INSERT INTO t (v) VALUES (?)');
    $null = null;
    $blob->bind_param('b', $null);
    for ($i = 0; $i < 10; $i++) { $blob->send_long_data(0, str_repeat('x', 10000)); }
    $blob->execute();
    $attempt('SELECT LENGTH(v) FROM t ORDER BY id DESC LIMIT 1');
    $attempt('DROP PROCEDURE IF EXISTS p');
    $attempt('CREATE PROCEDURE p(a INT) BEGIN SELECT a; SELECT a + 1; END');
    foreach (['SELECT 1; SELECT 2; INSERT INTO t (v) VALUES (3)', 'CALL p(5)', 'SELECT 1; SELEKT'] as $sql) {
        try {
            $conn->multi_query($sql);
            do {
                $result = $conn->store_result();
                say($result ? $result->fetch_all() : $conn->affected_rows);
            } while ($conn->next_result());
        } catch (mysqli_sql_exception $e) {
            say($e->getCode(), $e->getMessage());
        }
    }
    $result = $conn->query("SELECT a.id, REPEAT('x', 100) FROM t a, t b, t c, t d", MYSQLI_USE_RESULT);
    $count = 0;
    while ($result->fetch_row()) { $count++; }
    say($count);
    say($conn->ping(), $conn->select_db('other'));
    $attempt('SELECT * FROM here');
    say($conn->change_user('guest', 'guest pw', 'app'));
    $attempt('SELECT CURRENT_USER()');
    $conn->close();
    foreach ([['app', 'wrong'], ['nobody', 'x'], ['app', 'pw', 'nowhere']] as $wrong) {
        try {
            $connect(...$wrong);
            say('connected', $wrong);
        } catch (mysqli_sql_exception $e) {
            say($wrong, $e->getCode());
        }
    }
}

function with_pdo($host, $port, $socket, $emulate) {
    $to = $socket === null ? "mysql:host=$host;port=$port" : "mysql:unix_socket=$socket";
    $connect = fn($password = 'pw') => new PDO("$to;dbname=app;charset=utf8mb4", 'app', $password, [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_EMULATE_PREPARES => $emulate,
        PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_NUM,
    ]);
    $conn = $connect();
    $attempt = function ($sql, $args = []) use ($conn) {
        try {
            $statement = $conn->prepare($sql);
            $statement->execute($args);
            say($sql, $statement->columnCount() ? $statement->fetchAll() : null, $statement->rowCount(), $conn->lastInsertId());
        } catch (PDOException $e) {
            say($sql, $e->getCode(), $e->getMessage());
        }
    };
    $attempt('SELECT USER(), DATABASE()');
    $attempt('DROP TABLE IF EXISTS t');
    $attempt('CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT, n DECIMAL(10,3))');
    $attempt('INSERT INTO t (v, n) VALUES (?, ?)', ['ä🎈', '1.5']);
    $attempt('INSERT INTO t (v) VALUES (:v)', ['v' => null]);
    $attempt('SELECT * FROM t WHERE id > ?', [0]);
    $conn->beginTransaction();
    $attempt('DELETE FROM t');
    $attempt('SELECT COUNT(*) FROM t');
    $conn->rollBack();
    $attempt('SELECT COUNT(*) FROM t');
    $attempt('SELEKT');
    $attempt('SELECT * FROM nowhere');
    $attempt('INSERT INTO t (id) VALUES (?)', [1]);
    for ($i = 0; $i < 40; $i++) { $attempt('INSERT INTO t (v) VALUES (?)', ["row $i"]); }
    $attempt('SELECT COUNT(*), MAX(id) FROM t');
    try { $connect('wrong'); say('connected'); } catch (PDOException $e) { say($e->getCode()); }
}

foreach ([null, $socket] as $way) {
    if ($module === 'mysqli') {
        with_mysqli($host, $port, $way);
    } else {
        with_pdo($host, $port, $way, true);
        with_pdo($host, $port, $way, false);
    }
}
