from pymemcache.client.base import Client
import sys

client = Client(("127.0.0.1", int(sys.argv[1])), timeout=20)
print(client.flush_all(noreply=False))
for number in range(50):
    client.set(f"key{number}", "x" * number, noreply=number % 2 == 0)
print(len(client.get_many([f"key{number}" for number in range(60)])))
print(client.set_many({"a": "1", "b": "2"}), client.get("a"), client.get("nothing", b"default"))
print(client.add("a", "9", noreply=False), client.replace("a", "5", noreply=False), client.incr("a", 3), client.decr("a", 100))
value, cas = client.gets("a")
print(client.cas("a", "6", cas), client.cas("a", "7", cas), client.cas("nothing", "7", cas))
print(client.append("a", "0", noreply=False), client.prepend("a", "1", noreply=False), client.get("a"))
print(client.touch("a", 100, noreply=False), client.touch("nothing", 100, noreply=False))
print(client.delete("a", noreply=False), client.delete("a", noreply=False), client.delete_many(["b", "key1"], noreply=False))
big = "v" * 900_000
print(client.set("big", big, noreply=False), client.get("big") == big.encode())
try:
    print(client.set("too big", "v", noreply=False))
except Exception as error:
    print(type(error).__name__)
try:
    print(client.set("larger", "v" * 1_100_000, noreply=False))
except Exception as error:
    print(type(error).__name__, error)
print(client.get("big") == big.encode(), client.version()[:3], "bytes" in str(client.stats()))
