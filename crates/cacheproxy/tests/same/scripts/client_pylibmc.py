import pylibmc
import sys

for binary in (False, True):
    client = pylibmc.Client([f"127.0.0.1:{sys.argv[1]}"], binary=binary, behaviors={"cas": True, "tcp_nodelay": True})
    print("binary" if binary else "text", client.flush_all())
    print(client.set_multi({f"key{number}": "x" * number for number in range(200)}))
    found = client.get_multi([f"key{number}" for number in range(220)])
    print(len(found), found["key77"] == "x" * 77)
    print(client.set("a", 5), client.incr("a", 3), client.decr("a", 1), client.get("a"), client.get("nothing"))
    print(client.add("a", 1), client.replace("a", 2))
    try:
        print(client.replace("nothing", 2))
    except pylibmc.Error as error:
        print(type(error).__name__)
    value, cas = client.gets("a")
    print(value, client.cas("a", 6, cas), client.get("a"))
    try:
        print(client.cas("a", 7, cas))
    except pylibmc.Error as error:
        print(type(error).__name__)
    client.set("text", "b")
    print(client.append("text", "c"), client.prepend("text", "a"), client.get("text"))
    print(client.set("object", {"list": [1, 2.5, None]}), client.get("object"))
    print(client.touch("a", 100), client.touch("nothing", 100), client.delete("a"), client.delete("a"))
    print(client.delete_multi([f"key{number}" for number in range(200)]), client.get_multi(["key1"]))
    print(client.set("big", "v" * 900_000), len(client.get("big")))
    print(len(client.get_stats()))
