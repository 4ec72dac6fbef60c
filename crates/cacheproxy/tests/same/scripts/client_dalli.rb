require "dalli"

[:binary, :meta].each do |protocol|
  client = Dalli::Client.new("127.0.0.1:#{ARGV[0]}", protocol: protocol, socket_timeout: 20)
  p protocol, client.flush
  client.multi { 100.times { |number| client.set("key#{number}", "x" * number) } }
  found = client.get_multi((0...110).map { |number| "key#{number}" })
  p found.size, found["key42"] == "x" * 42
  p client.set("counter", "5", 0, raw: true) > 0, client.incr("counter", 3), client.decr("counter", 100), client.incr("new", 1, 0, 10)
  p client.get("nothing"), client.add("a", 1) != false, client.add("a", 2), client.get("a")
  p client.replace("a", { "list" => [1, nil] }) != false, client.replace("nothing", 1), client.get("a")
  p client.cas("a") { |value| value.merge("more" => 1) } != nil, client.get("a")
  p client.set("text", "b", 0, raw: true) > 0, client.append("text", "c"), client.prepend("text", "a"), client.get("text", raw: true)
  p client.touch("a", 100), client.touch("nothing", 100), client.gat("a", 100)
  p client.delete("a"), client.delete("a"), client.get("a")
  p client.fetch("fetched", 100) { "computed" }, client.fetch("fetched", 100) { "not again" }
  p client.set("big", "v" * 900_000, 0, raw: true) > 0, client.get("big", raw: true).size
  p client.stats.size, client.version.size
  client.close
end
