"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const metricOf = Object.fromEntries(data.metrics.map((m) => [m.name, m]));
  const points = data.rows.filter((row) => row.kind === "point");
  const state = { x: data.x, y: data.y, logX: data.wide.includes(data.x), logY: false, trials: false, id: null, heat: "w_bits", trialMetric: data.y };
  const byId = (id) => document.getElementById(id);

  // Every text enters the page as a text node or an attribute, never as markup.
  function make(tag, attributes = {}, ...children) {
    const svg = /^(svg|g|path|rect|circle|text|polyline|line)$/.test(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(key, value);
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  function scaled(value, unit) {
    if (!["bytes", "macs", "count"].includes(unit)) return [value, unit === "percent" ? "%" : unit];
    const [size, prefix] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([s]) => Math.abs(value) >= s) || [1, ""];
    return [value / size, prefix + (unit === "bytes" ? "B" : "")];
  }
  function format(value, unit, digits = 3) {
    const [number, suffix] = scaled(value, unit);
    return `${unit === "percent" ? number.toFixed(2) : Number(number.toPrecision(digits))} ${suffix}`.trim();
  }

  function ticks(low, high, count) {
    if (!(high > low)) return [low];
    const base = 10 ** Math.floor(Math.log10((high - low) / count));
    const step = base * ([1, 2, 5].find((m) => (high - low) / (m * base) <= count) || 10);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
    return found;
  }
  function logTicks(low, high, count) {
    const found = [];
    for (let d = Math.floor(low); d <= high; d++)
      for (const m of [1, 2, 5]) if (Math.log10(m) + d >= low && Math.log10(m) + d <= high) found.push(m * 10 ** d);
    if (found.length < 3) return ticks(10 ** low, 10 ** high, count);
    return found.length <= 2 * count ? found : found.filter((t) => Number.isInteger(Number(Math.log10(t).toFixed(9))));
  }
  function scale(values, log, start, end, count) {
    const used = log && Math.min(...values) > 0;
    const f = used ? Math.log10 : (v) => v;
    let [low, high] = values.length ? [f(Math.min(...values)), f(Math.max(...values))] : [0, 1];
    const air = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
    [low, high] = [low - air, high + air];
    const map = (v) => start + ((f(v) - low) / (high - low)) * (end - start);
    map.ticks = used ? logTicks(low, high, count) : ticks(low, high, count);
    return map;
  }

  const tip = byId("tip");
  function hover(text) {
    return {
      pointermove: (event) => {
        tip.textContent = text;
        tip.hidden = false;
        tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
        tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
      },
      pointerleave: () => (tip.hidden = true),
    };
  }

  function choice(label, options, value, change) {
    const select = make("select", { change: () => change(select.value) });
    for (const [key, title] of options) select.append(make("option", { value: key, ...(key === value ? { selected: "" } : {}) }, title));
    return make("label", {}, label, select);
  }
  function check(label, value, change) {
    const box = make("input", { type: "checkbox", ...(value ? { checked: "" } : {}), change: () => change(box.checked) });
    return make("label", {}, box, label);
  }
  function legend(entries) {
    return make("span", { class: "legend" }, ...entries.map(([kind, text]) => make("span", {}, make("i", { class: "mark " + kind }), text)));
  }
  const metricOptions = (names) => data.metrics.filter((m) => names.has(m.name)).map((m) => [m.name, m.title]);

  function frame(host, height, left, xs, ys, x, y, bottom = 52) {
    const width = Math.max(host.clientWidth, 320);
    const toX = scale(xs, x.log, left, width - 20, width / 110);
    const toY = scale(ys, y.log, height - bottom, 14, 6);
    const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    const floor = y.floor || height - bottom;
    for (const t of toX.ticks) {
      svg.append(make("path", { class: "grid", d: `M${toX(t)} 14V${floor}` }));
      svg.append(make("text", { x: toX(t), y: floor + 18, "text-anchor": "middle" }, format(t, x.unit === "percent" ? "" : x.unit, 6)));
    }
    for (const t of toY.ticks) {
      svg.append(make("path", { class: "grid", d: `M${left} ${toY(t)}H${width - 20}` }));
      svg.append(make("text", { x: left - 9, y: toY(t) + 4, "text-anchor": "end" }, format(t, y.unit === "percent" ? "" : y.unit, 6)));
    }
    svg.append(make("text", { class: "axis", x: (left + width - 20) / 2, y: height - 6, "text-anchor": "middle" }, x.text));
    svg.append(make("text", { class: "axis", transform: `translate(14 ${(14 + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.text));
    host.replaceChildren(svg);
    return { svg, toX, toY, width };
  }
  function axisText(m) {
    return `${m.title}${m.unit === "percent" ? ", %" : ""} (${m.higher ? "higher" : "lower"} is better)`;
  }

  function staircase(rows, x, y) {
    const value = (row, m) => row.metrics[m.name][0] * (m.higher ? -1 : 1);
    const ordered = [...rows].sort((a, b) => value(a, x) - value(b, x) || value(a, y) - value(b, y));
    return ordered.filter((row, i) => i === 0 || ordered.slice(0, i).every((other) => value(other, y) > value(row, y)));
  }

  function shape(kind, x, y, extra = "") {
    if (kind === "dense") return make("path", { class: "dense", d: `M${x} ${y - 8}l8 8l-8 8l-8 -8z` });
    if (kind === "uniform") return make("rect", { class: "uniform", x: x - 5, y: y - 5, width: 10, height: 10 });
    return make("circle", { class: "point" + extra, cx: x, cy: y, r: 6 });
  }

  function describe(row) {
    const lines = Object.entries(row.cells).map(([name, cell]) =>
      `${metricOf[name].title}: ${[cell.value, cell.interval, cell.delta && `(${cell.delta})`].filter(Boolean).join(" ")}, ${cell.origin}`);
    return [row.id === row.label ? row.id : `${row.id}: ${row.label}`, ...lines].join("\n");
  }

  function drawFront() {
    const [x, y] = [metricOf[state.x], metricOf[state.y]];
    const rows = data.rows.filter((row) => x && y && row.metrics[x.name] && row.metrics[y.name]);
    if (!rows.length) return byId("front-chart").replaceChildren(make("p", { class: "empty" }, "There is no point to draw."));
    const dots = state.trials ? data.trials.filter((t) => x.name in t.metrics && y.name in t.metrics) : [];
    const spread = (m) => [...rows.flatMap((row) => row.metrics[m.name].slice(1)), ...dots.map((t) => t.metrics[m.name])];
    const { svg, toX, toY, width } = frame(byId("front-chart"), 460, 74, spread(x), spread(y),
      { log: state.logX, unit: x.unit, text: axisText(x) }, { log: state.logY, unit: y.unit, text: axisText(y) });
    for (const t of dots) {
      const text = `trial ${t.number}, ${t.fidelity}\n${t.label}\n${x.title}: ${format(t.metrics[x.name], x.unit)}\n${y.title}: ${format(t.metrics[y.name], y.unit)}`;
      svg.append(make("circle", { class: "trial " + t.fidelity, cx: toX(t.metrics[x.name]), cy: toY(t.metrics[y.name]), r: 2.5, ...hover(text) }));
    }
    const leading = new Set();
    for (const fidelity of new Set(points.map((row) => row.fidelity))) {
      const best = staircase(rows.filter((row) => row.kind === "point" && row.fidelity === fidelity), x, y);
      best.forEach((row) => leading.add(row.id));
      const at = best.map((row) => [toX(row.metrics[x.name][0]), toY(row.metrics[y.name][0])]);
      const corners = at.flatMap(([a, b], i) => (i ? [[a, at[i - 1][1]], [a, b]] : [[a, b]]));
      svg.append(make("polyline", { class: "step", points: corners.map((c) => c.join(",")).join(" ") }));
    }
    for (const row of rows) {
      const [vx, lowX, highX] = row.metrics[x.name], [vy, lowY, highY] = row.metrics[y.name];
      const [px, py] = [toX(vx), toY(vy)];
      if (highX > lowX) svg.append(make("path", { class: "bar of-" + row.kind, d: `M${toX(lowX)} ${py}H${toX(highX)}` }));
      if (highY > lowY) svg.append(make("path", { class: "bar of-" + row.kind, d: `M${px} ${toY(lowY)}V${toY(highY)}` }));
    }
    // Names of all uniform plans would cover one another: those that another one beats in both axes tell theirs when asked.
    const named = new Set(staircase(rows.filter((row) => row.kind === "uniform"), x, y).map((row) => row.id));
    const place = (row) => [toX(row.metrics[x.name][0]), toY(row.metrics[y.name][0])];
    // Left, right, top and bottom of what no name may lie on: marks, and the names before it.
    const taken = rows.map((row) => place(row).flatMap((at) => [at - 8, at + 8]));
    for (const row of rows) {
      const shown = row.kind === "dense" || named.has(row.id) || row.id === state.id;
      const [px, py] = place(row);
      const hit = make("g", { class: "hit" + (row.id === state.id ? " on" : ""), tabindex: 0, role: "button", "aria-label": describe(row),
        click: () => pick(row.id), keydown: (event) => event.key === "Enter" && pick(row.id), ...hover(describe(row)) },
        make("circle", { class: "ring", cx: px, cy: py, r: 11 }), shape(row.kind, px, py, leading.has(row.id) ? "" : " beaten"));
      svg.append(hit);
      if (!shown) continue;
      // A point's name goes to the side that no other point can be on, a baseline's to the side with room.
      const point = row.kind === "point", toLeft = point ? !x.higher : px > 0.8 * width;
      const name = point ? row.id : row.label, start = px + (toLeft ? -14 : 14), end = start + (toLeft ? -1 : 1) * 7.5 * name.length;
      const [from, to] = [Math.min(start, end), Math.max(start, end)];
      let at = py + (point ? (y.higher ? -8 : 16) : 4);
      while (taken.some(([left, right, top, bottom]) => from < right && to > left && at - 11 < bottom && at + 3 > top)) at += 3;
      taken.push([from, to, at - 11, at + 3]);
      hit.append(make("text", { class: "name", x: start, y: at, "text-anchor": toLeft ? "end" : "start" }, name));
    }
  }

  function frontControls() {
    const names = new Set(data.rows.flatMap((row) => Object.keys(row.metrics)));
    const set = (key) => (value) => { state[key] = value; drawFront(); };
    const setX = (name) => { [state.x, state.logX] = [name, data.wide.includes(name)]; frontControls(); drawFront(); };
    byId("front-controls").replaceChildren(
      choice("x", metricOptions(names), state.x, setX), check("log", state.logX, set("logX")),
      choice("y", metricOptions(names), state.y, set("y")), check("log", state.logY, set("logY")),
      ...(data.trials.length ? [check("trials (lower fidelity)", state.trials, set("trials"))] : []),
      legend([["point", "verified point"], ["beaten", "beaten in these axes"], ["dense", "dense"], ["uniform", "uniform baseline"]]));
  }

  const heats = {
    w_bits: { title: "weight bits", share: (l) => (l.w_bits === null ? 0 : 1 - (l.w_bits - 2) / 15), text: (l) => l.w_bits ?? "" },
    a_bits: { title: "activation bits", share: (l) => (l.a_bits === null ? 0 : l.a_bits === 8 ? 0.7 : 0.3), text: (l) => l.a_bits ?? "" },
    channels: { title: "channels kept, %", share: (l) => 1 - l.channels_after / l.channels_before, text: (l) => percent(l.channels_after / l.channels_before) },
    macs: { title: "MACs kept, %", share: (l) => (l.macs_before ? 1 - l.macs_after / l.macs_before : 0), text: (l) => (l.macs_before ? percent(l.macs_after / l.macs_before) : "") },
    sparsity: { title: "zero weights, %", share: (l) => l.sparsity, text: (l) => (l.sparsity ? percent(l.sparsity) : "") },
    rank: { title: "factorised", share: (l) => (l.rank ? 0.6 : 0), text: () => "" },
  };
  const percent = (share) => String(Math.round(100 * share));

  function layerText(row, l) {
    if (!l.channels_after) return `${row.id}, ${l.layer}\ndropped`;
    return [`${row.id}, ${l.layer} (${l.op})`, `channels: ${l.channels_before} to ${l.channels_after}`,
      `weights: ${l.w_bits ?? "unquantized"}${l.w_bits ? " bits" : ""}, activations: ${l.a_bits ?? "unquantized"}${l.a_bits ? " bits" : ""}`,
      ...(l.rank ? [`rank: ${l.rank}`] : []), ...(l.sparsity ? [`zero weights: ${percent(l.sparsity)} %`] : []), l.what].join("\n");
  }

  function drawHeat() {
    const rows = points.filter((row) => row.layers.length);
    const names = [...new Set(rows.flatMap((row) => row.layers.map((l) => l.layer)))];
    if (!names.length) return byId("heat").replaceChildren(make("p", { class: "empty" }, "There is no point with layers to draw."));
    const left = 78, high = 24, heat = heats[state.heat];
    const wide = Math.max(6, Math.min(64, (byId("heat").clientWidth - left - 40) / names.length));
    const every = Math.ceil((wide < 15 ? 26 : 15) / wide), longest = Math.max(...names.map((name) => name.length));
    const foot = Math.min(150, 14 + 5 * longest), width = left + wide * names.length + 40, height = rows.length * high + foot;
    const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    rows.forEach((row, j) => {
      const group = make("g", { class: "heat-row" + (row.id === state.id ? " on" : ""), click: () => pick(row.id) });
      group.append(make("text", { class: "rowname", x: left - 10, y: j * high + 16, "text-anchor": "end" }, row.id));
      for (const l of row.layers) {
        const x = left + names.indexOf(l.layer) * wide, share = l.channels_after ? Math.max(0, Math.min(1, heat.share(l))) : 0;
        const fill = l.channels_after ? `color-mix(in oklab, var(--heat) ${Math.round(6 + 88 * share)}%, var(--panel))` : "var(--bg)";
        const dark = share > 0.5;
        group.append(make("rect", { class: "cell", x, y: j * high, width: wide, height: high, style: `fill:${fill}`, ...hover(layerText(row, l)) }));
        const [cx, cy, arm] = [x + wide / 2, j * high + high / 2, Math.min(4, wide / 2 - 1)];
        if (!l.channels_after) group.append(make("path", { class: "gone", d: `M${cx - arm} ${cy - arm}l${2 * arm} ${2 * arm}m0 ${-2 * arm}l${-2 * arm} ${2 * arm}` }));
        else if (wide >= 22) group.append(make("text", { class: "in", x: cx, y: cy + 4, style: dark ? "fill:var(--heat-ink)" : "" },
          String(heat.text(l))));
      }
      svg.append(group);
    });
    names.forEach((name, i) => {
      if (i % every) return;
      const [x, y] = [left + (i + 0.5) * wide + 4, rows.length * high + 10];
      svg.append(make("text", { transform: `translate(${x} ${y}) rotate(-55)`, "text-anchor": "end" }, name.length > 26 ? "…" + name.slice(-25) : name));
    });
    byId("heat").replaceChildren(svg);
  }

  const cell = (text, kind = "n", share = null) => make("td", { class: kind + (share ? " fill" : ""), ...(share ? { style: `--w:${share.toFixed(3)}` } : {}) }, String(text));
  function drawLayers(row) {
    const host = byId("layer-table");
    if (!row || !row.layers.length) return host.replaceChildren();
    const total = (key) => row.layers.reduce((sum, l) => sum + (l[key] ?? 0), 0);
    const timed = row.layers.some((l) => l.latency_ms !== null), most = (key) => Math.max(...row.layers.map((l) => l[key] ?? 0)) || 1;
    const [mostBytes, mostMs] = [most("bytes"), most("latency_ms")];
    const arrow = (a, b, unit) => cell(a === b ? format(a, unit) : `${format(a, unit)} → ${format(b, unit)}`, "n" + (a === b ? "" : " changed"));
    const body = row.layers.map((l) => make("tr", {}, cell(l.layer, ""), cell(l.op, ""), arrow(l.channels_before, l.channels_after, "count"),
      arrow(l.macs_before, l.macs_after, "macs"), cell(l.w_bits ?? "–"), cell(l.a_bits ?? "–"), cell(l.sparsity ? percent(l.sparsity) + " %" : "–"),
      cell(l.rank || "–"), cell(format(l.bytes, "bytes"), "n", l.bytes / mostBytes),
      ...(timed ? [cell(l.latency_ms === null ? "–" : l.latency_ms.toFixed(3), "n", (l.latency_ms ?? 0) / mostMs)] : []), cell(l.what, "wrap")));
    const heads = ["layer", "op", "channels", "MACs", "w bits", "a bits", "zeros", "rank", "bytes", ...(timed ? ["ms"] : []), "what was done"];
    const head = make("tr", {}, ...heads.map((name, i) => make("th", i > 1 && i < heads.length - 1 ? { class: "n" } : {}, name)));
    const foot = make("tr", {}, cell(`${row.layers.length} layers`, ""), cell(""), cell(""), arrow(total("macs_before"), total("macs_after"), "macs"),
      cell(""), cell(""), cell(""), cell(""), cell(format(total("bytes"), "bytes")), ...(timed ? [cell(total("latency_ms").toFixed(3))] : []), cell("", ""));
    host.replaceChildren(make("h3", {}, `Layers of ${row.id}`), make("div", { class: "scroll tall" },
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...body), make("tfoot", {}, foot))));
  }

  const costs = [["size_bytes", "bytes"], ["latency_ms", "time"], ["macs", "MACs"]];
  function drawWhy(row) {
    const host = byId("why");
    if (!row || !row.why) return host.replaceChildren();
    const share = (value) => `${(100 * value).toFixed(1)} %`;
    const table = (heads, body) => make("div", { class: "scroll tall" }, make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map(([name, kind]) => make("th", { class: kind }, name)))), make("tbody", {}, ...body)));
    const choices = row.why.choices.map((c) => make("tr", {}, cell(c.decision, ""), cell(c.option, ""), cell(`${(100 * c.loss).toFixed(2)} %`),
      ...costs.map(([name]) => cell(name in c.saves ? share(c.saves[name]) : "–"))));
    const relaxed = row.why.relaxed.map((r) => make("tr", {}, cell(`a tenth more ${Object.fromEntries(costs)[r.cost] ?? r.cost}`, ""),
      cell(r.taken_back.join(", ") || "nothing", "wrap"), cell(`${(100 * r.relief).toFixed(2)} %`)));
    const reasons = [...new Set(row.why.left.map((l) => l.why))];
    const left = reasons.map((why) => make("tr", {}, cell(why, "wrap"),
      make("td", { class: "wrap" }, make("code", {}, row.why.left.filter((l) => l.why === why).map((l) => l.decision).join(", ")))));
    host.replaceChildren(make("h3", {}, `Why ${row.id} is as it is`),
      make("p", { class: "empty" }, "What each choice loses alone, untrained, of what knowing nothing loses; what the plan would cost more without it, of the dense cost."),
      table([["decision", ""], ["choice", ""], ["loses", "n"], ...costs.map(([, name]) => [`saves ${name}`, "n"])], choices),
      make("details", {}, make("summary", {}, "What a tenth more of each cost would buy"),
        table([["limit", ""], ["taken back first", ""], ["loss relieved", "n"]], relaxed)),
      ...(left.length ? [make("details", {}, make("summary", {}, `${row.why.left.length} decisions left alone, and why`), table([["why", ""], ["decisions", ""]], left))] : []));
  }

  function drawTrials() {
    const host = byId("trial-chart"), m = metricOf[state.trialMetric];
    if (!host) return;
    const done = data.trials.filter((t) => t.state === "complete" && m && m.name in t.metrics);
    const lanes = ["stopped", "infeasible", "failed"].filter((name) => data.trials.some((t) => t.state === name));
    const bottom = 46 + 24 * lanes.length, height = 240 + bottom;
    const { svg, toX, toY, width } = frame(host, height, 74, data.trials.map((t) => t.number), done.map((t) => t.metrics[m.name]),
      { unit: "", text: "trial" }, { unit: m ? m.unit : "", text: m ? axisText(m) : "", floor: height - 46 }, bottom);
    lanes.forEach((name, i) => {
      svg.append(make("rect", { class: "lane", x: 74, y: 250 + 24 * i, width: width - 94, height: 20, rx: 3 }));
      svg.append(make("text", { x: 65, y: 264 + 24 * i, "text-anchor": "end" }, name));
    });
    for (const t of data.trials) {
      const x = toX(t.number), lane = lanes.indexOf(t.state), y = 260 + 24 * lane;
      const values = Object.entries(t.metrics).map(([name, value]) => `${metricOf[name].title}: ${format(value, metricOf[name].unit)}`);
      const on = hover([`trial ${t.number}, ${t.state}, ${t.fidelity}`, t.label, ...values, t.error].filter(Boolean).join("\n"));
      if (["stopped", "infeasible"].includes(t.state)) svg.append(make("circle", { class: t.state, cx: x, cy: y, r: 4, "pointer-events": "all", ...on }));
      else if (t.state === "failed") svg.append(make("path", { class: "failed", d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8`, "pointer-events": "bounding-box", ...on }));
      else if (done.includes(t)) svg.append(make("circle", { class: `trial ${t.fidelity}${t.front ? " best" : ""}`, cx: x, cy: toY(t.metrics[m.name]), r: t.front ? 5 : 4, ...on }));
    }
  }
  function trialControls() {
    if (!byId("trial-controls")) return;
    const names = new Set(data.trials.flatMap((t) => Object.keys(t.metrics)));
    byId("trial-controls").replaceChildren(
      choice("y", metricOptions(names), state.trialMetric, (value) => { state.trialMetric = value; drawTrials(); }),
      legend([["point", "on the front of the search"], ["trial", "complete, fainter for a lower fidelity"]]));
  }

  function drawSelected(row) {
    const panel = byId("selected");
    if (!row) return panel.replaceChildren(make("p", { class: "empty" }, "No point is selected."));
    const facts = Object.entries(row.cells).flatMap(([name, cell]) => [make("dt", {}, metricOf[name].title),
      make("dd", {}, cell.value, make("small", {}, cell.delta), make("small", {}, `${cell.interval} ${cell.origin}`))]);
    panel.replaceChildren(make("h3", {}, make("i", { class: "mark " + row.kind }), row.id), make("p", {}, row.label),
      ...(row.student ? [make("p", { class: "empty" }, row.student)] : []), make("dl", {}, ...facts),
      ...(row.layers.length ? [make("a", { href: "#layer-table" }, "its layers")] : []));
  }
  function drawCommands(row) {
    if (!row || row.kind !== "point" || !byId("run-commands")) return;
    byId("run-commands").textContent = data.run.map((line) => line.replaceAll("{onnx}", row.onnx)).join("\n");
    byId("run-id").textContent = row.id;
  }

  function pick(id) {
    state.id = id;
    const row = data.rows.find((each) => each.id === id);
    for (const line of document.querySelectorAll("tr[data-select]")) line.classList.toggle("on", line.dataset.select === id);
    drawFront(); drawHeat(); drawLayers(row); drawWhy(row); drawSelected(row); drawCommands(row);
  }

  for (const node of document.querySelectorAll("[data-select]")) node.addEventListener("click", () => pick(node.dataset.select));
  byId("heat-controls").replaceChildren(choice("colour", Object.entries(heats).map(([key, heat]) => [key, heat.title]), state.heat,
    (value) => { state.heat = value; drawHeat(); }), make("span", {}, "A stronger colour is compressed harder; no number is a layer left alone, × one that was dropped. Click a row to see the point."));
  frontControls(); trialControls(); drawTrials();
  const first = document.querySelector(".card [data-select]");
  pick(first ? first.dataset.select : points.length ? points[0].id : null);
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => { drawFront(); drawHeat(); drawTrials(); }, 100); });
})();
