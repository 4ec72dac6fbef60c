<?php
foreach ([false, true] as $binary) {
    $client = new Memcached();
    $client->setOption(Memcached::OPT_BINARY_PROTOCOL, $binary);
    $client->setOption(Memcached::OPT_LIBKETAMA_COMPATIBLE, true);
    $client->addServer('127.0.0.1', (int) $argv[1]);
    $say = fn (...$values) => print(json_encode($values) . ' ' . $client->getResultCode() . "\n");
    $say($binary, $client->flush());
    $items = [];
    for ($number = 0; $number < 100; $number++) {
        $items["key$number"] = str_repeat('x', $number);
    }
    $say($client->setMulti($items, 100));
    $found = $client->getMulti(array_merge(array_keys($items), ['nothing']));
    ksort($found);
    $say(count($found), $found['key42'] === $items['key42']);
    $say($client->set('a', 5), $client->increment('a', 3), $client->decrement('a'), $client->get('a'));
    $say($client->get('nothing'));
    $say($client->add('a', 1));
    $say($client->replace('a', [1, 'two' => 2.5]), $client->get('a'));
    $extended = $client->get('a', null, Memcached::GET_EXTENDED);
    $say($client->cas($extended['cas'], 'a', 'swapped'), $client->get('a'));
    $say($client->cas($extended['cas'], 'a', 'again'));
    $client->setOption(Memcached::OPT_COMPRESSION, false);
    $say($client->set('text', 'b'), $client->append('text', 'c'), $client->prepend('text', 'a'), $client->get('text'));
    $say($client->touch('a', 100));
    $say($client->delete('a'));
    $say($client->delete('a'));
    $say($client->set('big', str_repeat('v', 900000)), strlen($client->get('big')));
    $say($client->set('larger', random_bytes(1100000)));
    $say($client->get('larger'));
    if (!$binary) {
        $client->getDelayed(['key1', 'key2', 'nothing'], true);
        $say(array_map(fn ($item) => $item['key'], $client->fetchAll()));
    }
    $say(count($client->deleteMulti(array_keys($items))), $client->getMulti(['key1']));
    $say(count($client->getStats()));
}
