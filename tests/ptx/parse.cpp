// Text to decoded instructions: "Syntax", "Directives", "Instruction Operands".
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <regex>

#include "machine.h"

namespace ptx {

struct Module {
  std::string text;                       // without comments, of the same lines
  std::map<std::string, size_t> entries;  // where ".entry" of a kernel is
  struct Variable {
    size_t alignment, size;
    bool dynamic;
  };
  std::map<std::string, Variable> shared;
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
  std::map<int, std::string> files;
};

namespace {

// The planted fault.
std::string planted_expression, planted_replacement;

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%' || c == '.';
}
bool starts_with(const std::string& s, const char* prefix) { return s.rfind(prefix, 0) == 0; }

std::string without_comments(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') ++i;
      if (i < text.size()) out += '\n';
    } else if (text.compare(i, 2, "/*") == 0) {
      for (i += 2; i < text.size() && text.compare(i, 2, "*/") != 0; ++i) {
        if (text[i] == '\n') out += '\n';
      }
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string trimmed(const std::string& s) {
  size_t a = 0, b = s.size();
  while (a < b && is_space(s[a])) ++a;
  while (b > a && is_space(s[b - 1])) --b;
  return s.substr(a, b - a);
}

// At separators outside of braces and brackets.
std::vector<std::string> split(const std::string& s, char separator) {
  std::vector<std::string> parts;
  int depth = 0;
  std::string part;
  for (char c : s) {
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (c == separator && depth == 0) {
      parts.push_back(trimmed(part));
      part.clear();
    } else {
      part += c;
    }
  }
  part = trimmed(part);
  if (!part.empty()) parts.push_back(part);
  return parts;
}

// The name before a bracket.
std::string name_before(const std::string& s, size_t bracket) {
  size_t begin = bracket;
  while (begin > 0 && is_word(s[begin - 1])) --begin;
  return s.substr(begin, bracket - begin);
}

size_t number_after(const std::string& s, const char* word, size_t otherwise) {
  const size_t at = s.find(word);
  return at == std::string::npos ? otherwise : std::strtoul(s.c_str() + at + std::strlen(word), nullptr, 10);
}

size_t rounded_up(size_t x, size_t unit) { return (x + unit - 1) / unit * unit; }

// Bits of a type like ".f32", or 1 of .pred.
int bits_of(const std::string& type) {
  if (type == ".pred") return 1;
  if (type == ".f32x2") return 64;
  return std::atoi(type.c_str() + 2);
}

// The text with the planted fault.
std::string with_fault(const std::string& entry, const std::string& name) {
  if (planted_expression.empty()) return entry;
  const std::regex expression(planted_expression);
  std::string out;
  bool planted = false;
  for (size_t at = 0; at < entry.size();) {
    const size_t end = std::min(entry.find('\n', at), entry.size() - 1) + 1;
    const std::string line = entry.substr(at, end - at);
    if (std::regex_search(line, expression)) {
      planted = true;
      out += std::regex_replace(line, expression, planted_replacement);
    } else {
      out += line;
    }
    at = end;
  }
  if (!planted) throw Error("nothing in " + name + " matches " + planted_expression);
  return out;
}

class Parser {
 public:
  // `text` begins with ".entry"; `first_line` is that line's number in the module.
  Parser(const Module& module, Kernel& kernel, const std::string& text, int first_line)
      : m(module), k(kernel), t(text), line(first_line) {}

  void parse() {
    header();
    k.registers = kSpecials;
    scopes.emplace_back();
    ++at;  // {
    while (scopes.size() > 1) {
      skip_space();
      if (at >= t.size()) throw Error("ptx: " + k.name + " does not end");
      const char c = t[at];
      if (c == '{') {
        scopes.emplace_back();
        ++at;
      } else if (c == '}') {
        scopes.pop_back();
        ++at;
      } else if (c == ';') {
        ++at;
      } else {
        statement();
      }
    }
    for (auto& [instruction, label] : jumps) {
      const auto target = labels.find(label);
      if (target == labels.end()) throw Error("ptx: no label " + label + place_of(k, k.code[instruction]));
      k.code[instruction].target = target->second;
    }
    Instruction last;  // a kernel may end without ret
    last.kind = Instruction::exit;
    last.opcode = last.text = "(end)";
    last.line = line;
    k.code.push_back(last);
    k.static_shared = rounded_up(k.static_shared, 128);
    for (uint64_t* lanes : of_dynamic_memory) {
      for (int l = 0; l < kLanes; ++l) lanes[l] += k.static_shared;
    }
  }

 private:
  struct Name {
    bool is_pred;
    int index;
  };

  const Module& m;
  Kernel& k;
  const std::string& t;
  size_t at = 0;
  int line, file = 0, file_line = 0;
  // The outermost has the "Special Registers".
  std::vector<std::map<std::string, Name>> scopes = {{{"%tid.x", {false, tid_x}},
                                                      {"%ntid.x", {false, ntid_x}},
                                                      {"%ctaid.x", {false, ctaid_x}},
                                                      {"%nctaid.x", {false, nctaid_x}},
                                                      {"%laneid", {false, laneid}},
                                                      {"%warpid", {false, warpid}},
                                                      {"%cluster_ctarank", {false, cluster_ctarank}},
                                                      {"%cluster_nctarank", {false, cluster_nctarank}},
                                                      {"%clusterid.x", {false, clusterid_x}}}};
  std::map<std::string, int> labels;
  std::map<std::string, uint64_t> locals, statics;
  std::vector<std::pair<size_t, std::string>> jumps;
  std::vector<uint64_t*> of_dynamic_memory;  // constants that are addresses in it

  void skip_space() {
    while (at < t.size() && is_space(t[at])) line += t[at++] == '\n';
  }

  std::string until(char end) {
    const size_t from = at;
    while (at < t.size() && t[at] != end) line += t[at++] == '\n';
    return t.substr(from, at++ - from);
  }

  // "Kernel and Function Directives: .entry", "Performance-Tuning Directives".
  void header() {
    const size_t body = t.find('{');
    const std::string head = t.substr(0, body);
    const size_t open = head.find('('), close = head.rfind(')');
    if (open != std::string::npos) {
      for (const std::string& p : split(head.substr(open + 1, close - open - 1), ',')) {
        const size_t bracket = p.find('[');
        std::string type;
        for (size_t dot = p.find('.', 1); dot != std::string::npos && dot < bracket; dot = p.find('.', dot + 1)) {
          const std::string word = p.substr(dot, p.find_first_of(" \t.", dot + 1) - dot);
          if (bits_of(word) > 0 && word != ".param" && word != ".align") type = word;
        }
        const size_t element = static_cast<size_t>(bits_of(type)) / 8;
        const std::string name =
            bracket == std::string::npos ? trimmed(p.substr(p.find_last_of(" \t"))) : name_before(p, bracket);
        const size_t size =
            element * (bracket == std::string::npos ? 1 : std::strtoul(p.c_str() + bracket + 1, nullptr, 10));
        const size_t offset = rounded_up(k.parameter_bytes, number_after(p, ".align", element));
        k.parameters[name] = {offset, size};
        k.parameter_places.emplace_back(offset, size);
        k.parameter_bytes = offset + size;
      }
    }
    const std::string tuning = close == std::string::npos ? head : head.substr(close);
    k.most_threads = static_cast<int>(number_after(tuning, ".maxntid", number_after(tuning, ".reqntid", 0)));
    k.blocks_of_multiprocessor = static_cast<int>(number_after(tuning, ".minnctapersm", 0));
    k.most_registers = static_cast<int>(number_after(tuning, ".maxnreg", 0));
    while (at < body) line += t[at++] == '\n';
  }

  void declare(const std::string& name, int bits) {
    if (bits == 1) {
      scopes.back()[name] = {true, k.predicates++};
    } else {
      scopes.back()[name] = {false, k.registers};
      k.registers += bits > 64 ? 2 : 1;
    }
  }

  void directive(const std::string& text) {
    if (starts_with(text, ".reg")) {
      const std::string rest = trimmed(text.substr(4));
      const size_t end = std::find_if(rest.begin(), rest.end(), is_space) - rest.begin();
      const int bits = bits_of(rest.substr(0, end));
      for (const std::string& name : split(rest.substr(end), ',')) {
        const size_t angle = name.find('<');
        if (angle == std::string::npos) {
          declare(name, bits);
        } else {
          const int count = std::atoi(name.c_str() + angle + 1);
          for (int i = 0; i < count; ++i) declare(name.substr(0, angle) + std::to_string(i), bits);
        }
      }
    } else if (starts_with(text, ".local")) {
      const size_t bracket = text.find('[');
      if (bracket == std::string::npos) throw Error("ptx: line " + std::to_string(line) + ": cannot read " + text);
      k.local_bytes = rounded_up(k.local_bytes, number_after(text, ".align", 1));
      locals[name_before(text, bracket)] = kLocalBase + k.local_bytes;
      k.local_bytes += std::strtoul(text.c_str() + bracket + 1, nullptr, 10);
    } else if (!starts_with(text, ".pragma")) {
      throw Error("ptx: line " + std::to_string(line) + ": unknown directive " + text);
    }
  }

  const Name* name_of(const std::string& name) const {
    for (size_t i = scopes.size(); i-- > 0;) {
      const auto found = scopes[i].find(name);
      if (found != scopes[i].end()) return &found->second;
    }
    return nullptr;
  }

  Operand constant(uint64_t value) {
    k.constants.emplace_back(new uint64_t[kLanes]);
    std::fill_n(k.constants.back().get(), kLanes, value);
    Operand o;
    o.kind = Operand::constant;
    o.lanes = k.constants.back().get();
    return o;
  }

  // Where a shared variable of the module is: static ones in the order in which they are met.
  Operand shared_variable(const std::string& name, const Module::Variable& variable, int64_t offset) {
    if (variable.dynamic) {
      const Operand o = constant(kSharedBase + static_cast<uint64_t>(offset));
      of_dynamic_memory.push_back(k.constants.back().get());
      return o;
    }
    const auto known = statics.find(name);
    if (known == statics.end()) {
      k.static_shared = rounded_up(k.static_shared, variable.alignment);
      statics[name] = kSharedBase + k.static_shared;
      k.static_shared += variable.size;
    }
    return constant(statics[name] + static_cast<uint64_t>(offset));
  }

  Operand scalar(std::string text, int64_t offset = 0) {
    Operand o;
    if (text == "_") {
      o.kind = Operand::sink;
      return o;
    }
    if (text[0] == '!') {
      o = scalar(trimmed(text.substr(1)));
      if (o.kind != Operand::pred) throw Error("! of what is no predicate: " + text);
      o.negated = !o.negated;
      return o;
    }
    if (const Name* name = name_of(text)) {
      o.kind = name->is_pred ? Operand::pred : Operand::reg;
      o.index = name->index;
      o.offset = offset;
      return o;
    }
    const auto parameter = k.parameters.find(text);
    if (parameter != k.parameters.end()) {
      return constant(kParameterBase + parameter->second.first + static_cast<uint64_t>(offset));
    }
    const auto local = locals.find(text);
    if (local != locals.end()) return constant(local->second + static_cast<uint64_t>(offset));
    const auto shared = m.shared.find(text);
    if (shared != m.shared.end()) return shared_variable(text, shared->second, offset);
    // "Constants".
    if (text[0] == '0' && text.size() > 2 && std::strchr("fFdD", text[1]) != nullptr) {
      return constant(std::strtoull(text.c_str() + 2, nullptr, 16));
    }
    if (std::isdigit(static_cast<unsigned char>(text[0])) != 0 || text[0] == '-') {
      char* end = nullptr;
      const uint64_t value = text[0] == '-' ? static_cast<uint64_t>(std::strtoll(text.c_str(), &end, 0))
                                            : std::strtoull(text.c_str(), &end, 0);
      if (*end == 0 || *end == 'U') return constant(value + static_cast<uint64_t>(offset));
    }
    throw Error("unknown operand " + text);
  }

  // A name and, perhaps, an offset.
  Operand address(const std::string& text) {
    const size_t plus = text.find('+', 1);
    if (plus == std::string::npos) return scalar(text);
    return scalar(trimmed(text.substr(0, plus)), std::strtoll(text.c_str() + plus + 1, nullptr, 0));
  }

  void operand(const std::string& text, std::vector<Operand>& to) {
    if (text[0] == '{') {
      for (const std::string& part : split(text.substr(1, text.size() - 2), ',')) operand(part, to);
    } else if (text[0] == '[') {
      to.push_back(address(trimmed(text.substr(1, text.size() - 2))));
    } else if (text.find('|') != std::string::npos) {
      for (const std::string& part : split(text, '|')) to.push_back(scalar(part));
    } else {
      to.push_back(address(text));
    }
  }

  void statement() {
    size_t end = at;
    while (end < t.size() && is_word(t[end])) ++end;
    if (end > at && t[end] == ':' && t[end + 1] != ':') {
      labels[t.substr(at, end - at)] = static_cast<int>(k.code.size());
      at = end + 1;
      return;
    }
    const std::string word = t.substr(at, end - at);
    if (word == ".loc" || word == ".file") {  // "Debugging Directives"
      const std::string location = until('\n');
      std::sscanf(location.c_str(), ".loc %d %d", &file, &file_line);
      ++line;
      return;
    }
    Instruction i;
    i.line = line;
    i.file = file;
    i.file_line = file_line;
    i.text = trimmed(until(';'));
    if (i.text[0] == '.') {
      directive(i.text);
      return;
    }
    try {
      instruction(i);
    } catch (const Error& e) {
      throw Error(k.name + ": " + e.what() + place_of(k, i));
    }
    k.code.push_back(i);
  }

  void instruction(Instruction& i) {
    std::string rest = i.text;
    if (rest[0] == '@') {  // "Predicated Execution"
      size_t begin = 1;
      if (rest[1] == '!') i.guard_negated = true, begin = 2;
      size_t end = begin;
      while (is_word(rest[end])) ++end;
      const Name* name = name_of(rest.substr(begin, end - begin));
      if (name == nullptr || !name->is_pred) throw Error("unknown guard");
      i.guard = name->index;
      rest = trimmed(rest.substr(end));
    }
    const size_t end = std::find_if(rest.begin(), rest.end(), is_space) - rest.begin();
    i.opcode = rest.substr(0, end);
    std::vector<std::string> modifiers = split(i.opcode, '.');
    const std::vector<std::string> operands = split(rest.substr(end), ',');
    const std::string op = modifiers[0];
    const auto has = [&](const char* what) {
      return std::find(modifiers.begin(), modifiers.end(), what) != modifiers.end();
    };
    // "Control Flow Instructions"
    if (op == "bra") {
      i.kind = Instruction::branch;
      jumps.emplace_back(k.code.size(), operands.at(0));
      return;
    }
    if (op == "ret" || op == "exit") {
      i.kind = Instruction::exit;
      return;
    }
    const bool no_destination = op == "st" || op == "cp" || op == "fence" || op == "membar" || op == "trap" ||
                                (op == "mbarrier" && has("init")) || ((op == "bar" || op == "barrier") && !has("red"));
    const bool timer = op == "mov" && operands.size() == 2 && operands[1] == "%globaltimer";
    if (timer) modifiers = {"globaltimer"};
    for (size_t n = 0; n < operands.size(); ++n) {
      if (!(timer && n == 1)) operand(operands[n], n == 0 && !no_destination ? i.d : i.s);
    }
    select(i, modifiers);
  }
};

}  // namespace

std::string source_of(const Kernel& kernel, const Instruction& at) {
  const auto file = kernel.files.find(at.file);
  if (file == kernel.files.end()) return "-";
  const size_t ours = file->second.rfind("csrc/");  // what is compiled may be a copy
  return file->second.substr(ours == std::string::npos ? 0 : ours) + ":" + std::to_string(at.file_line);
}

std::string place_of(const Kernel& kernel, const Instruction& at) {
  const std::string place = "\n  PTX line " + std::to_string(at.line) + ": " + at.text, source = source_of(kernel, at);
  return source == "-" ? place : place + "\n  " + source;
}

std::shared_ptr<Module> load(const std::string& text) {
  auto module = std::make_shared<Module>();
  module->text = without_comments(text);
  const std::string& t = module->text;
  for (size_t at = t.find(".entry"); at != std::string::npos; at = t.find(".entry", at + 1)) {
    size_t begin = at + 6;
    while (is_space(t[begin])) ++begin;
    size_t end = begin;
    while (is_word(t[end])) ++end;
    module->entries[t.substr(begin, end - begin)] = at;
  }
  for (size_t at = t.find(".file"); at != std::string::npos; at = t.find(".file", at + 1)) {
    int number = 0;
    char name[1024];
    if (std::sscanf(t.c_str() + at, ".file %d \"%1023[^\"]\"", &number, name) == 2) module->files[number] = name;
  }
  // [.extern] .shared .align N .b8 name[size]; dynamic memory is extern, without a size.
  for (size_t at = t.find(".shared"); at != std::string::npos; at = t.find(".shared", at + 1)) {
    const size_t begin = t.rfind('\n', at) + 1;
    const std::string declaration = trimmed(t.substr(begin, t.find(';', at) - begin));
    if (!starts_with(declaration, ".extern") && !starts_with(declaration, ".shared")) continue;  // an instruction
    const size_t bracket = declaration.find('[');
    if (bracket == std::string::npos) throw Error("ptx: cannot read " + declaration);
    const size_t size = std::strtoul(declaration.c_str() + bracket + 1, nullptr, 10);
    module->shared[name_before(declaration, bracket)] = {number_after(declaration, ".align", 1), size,
                                                         starts_with(declaration, ".extern")};
  }
  return module;
}

void plant(const std::string& expression, const std::string& replacement) {
  planted_expression = expression;
  planted_replacement = replacement;
}

const Kernel* find(Module& module, const std::string& name) {
  static std::map<std::string, std::unique_ptr<Kernel>> planted;
  const auto entry = module.entries.find(name);
  if (entry == module.entries.end()) return nullptr;
  std::unique_ptr<Kernel>& kernel = planted_expression.empty()
                                        ? module.kernels[name]
                                        : planted[name + '\n' + planted_expression + '\n' + planted_replacement];
  if (kernel) return kernel.get();
  size_t end = module.text.find('{', entry->second);
  for (int depth = 0; end < module.text.size(); ++end) {
    depth += module.text[end] == '{' ? 1 : module.text[end] == '}' ? -1 : 0;
    if (depth == 0) break;
  }
  const auto begin = module.text.begin();
  const auto line = 1 + std::count(begin, begin + static_cast<std::ptrdiff_t>(entry->second), '\n');
  auto decoded = std::make_unique<Kernel>();
  decoded->name = name;
  decoded->files = module.files;
  const std::string text = with_fault(module.text.substr(entry->second, end + 1 - entry->second), name);
  Parser(module, *decoded, text, static_cast<int>(line)).parse();
  compact_registers(*decoded);
  kernel = std::move(decoded);
  return kernel.get();
}

const Requirements& requirements_of(const Kernel& kernel) { return kernel; }

std::vector<std::pair<size_t, size_t>> parameters_of(const Kernel& kernel) { return kernel.parameter_places; }

}  // namespace ptx
