"""What fans write, in Chinese: praise, questions, complaints, calls for help and offers of cooperation."""

from itertools import product

_PRAISE = [
    "太好看了{0}",
    "主播今天状态真好{0}",
    "每天都来看{0}",
    "支持支持{0}",
    "学到了{0}",
    "哈哈哈笑死我了{0}",
    "已三连{0}",
    "这个视频我看了三遍{0}",
    "拍得真用心{0}",
    "老粉报到{0}",
    "期待下一期{0}",
    "绝绝子{0}",
    "讲得很清楚{0}",
    "第一次刷到就关注了{0}",
]
_ENDS = ["", "!", "~", "[赞]", "👍", "❤️", "，加油", "，爱了爱了"]
_QUESTIONS = [
    "求同款链接{0}",
    "这个多少钱{0}",
    "什么时候开播{0}",
    "背景音乐叫什么{0}",
    "新手能学会吗{0}",
    "还有库存吗{0}",
    "敏感肌能用吗{0}",
]
_NEGATIVE = [
    "质量太差了，{0}",
    "收到货是坏的，{0}",
    "虚假宣传，{0}",
    "骗人的吧，{0}",
    "客服态度恶劣，{0}",
    "越来越无聊了，{0}",
    "垃圾，{0}",
    "广告太多，{0}",
]
_NEGATIVE_ENDS = [
    "取关了",
    "失望",
    "要求退款",
    "大家别买",
    "我要投诉",
    "再也不买了",
    '"高端"两个字你也配',
]
_HELP = [
    "求助，{0}",
    "有人知道怎么办吗，{0}",
    "主播能帮帮我吗，{0}",
    "救命，{0}",
    "请问{0}",
]
_HELP_ENDS = [
    "订单一直没发货",
    "退款三天了还没到账",
    "下单后地址填错了",
    "孩子发烧了该怎么办",
    "优惠券用不了",
    "账号登录不上\n一直提示错误",
]
_COOPERATION = [
    "你好，{0}",
    "我们是品牌方，{0}",
    "主播看私信，{0}",
    "我是MCN机构的，{0}",
]
_COOPERATION_ENDS = [
    "想谈商务合作",
    "有广告投放需求",
    "寻求带货合作，佣金可谈",
    "方便加微信聊推广吗",
    "想请您做品牌推广",
]
_GROUP = [
    "早上好{0}",
    "打卡{0}",
    "今天的福利领到了{0}",
    "谁有上一期的教程{0}",
    "我来回答，用的是小号{0}",
    "晚上八点直播间见{0}",
    "我家的已经到货了{0}",
    "投票了投票了{0}",
    "新人报到，请多关照{0}",
    "这款和上次那款有什么区别{0}",
    "分享一下我的使用心得：坚持一周就有变化{0}",
]
_LIVE = [
    "666{0}",
    "来了来了{0}",
    "主播好{0}",
    "上链接{0}",
    "冲冲冲{0}",
    "再唱一首{0}",
    "PK加油{0}",
    "这个我要了{0}",
    "讲讲尺码{0}",
]


def _fill(templates: list[str], ends: list[str]) -> list[str]:
    return [template.format(end) for template, end in product(templates, ends)]


GROUPS: dict[str, list[str]] = {
    "praise": _fill(_PRAISE, _ENDS),
    "question": _fill(_QUESTIONS, ["?", "？", "呀"]),
    "negative": _fill(_NEGATIVE, _NEGATIVE_ENDS),
    "help": _fill(_HELP, _HELP_ENDS),
    "cooperation": _fill(_COOPERATION, _COOPERATION_ENDS),
    "group": _fill(_GROUP, _ENDS),
    "live": _fill(_LIVE, _ENDS),
}
"""Texts by mood."""

TEXTS: list[str] = [text for texts in GROUPS.values() for text in texts]
"""All texts; a text is its index here."""

_starts = [sum(len(texts) for texts in list(GROUPS.values())[:n]) for n in range(len(GROUPS))]
RANGES: dict[str, tuple[int, int]] = {
    mood: (start, len(GROUPS[mood])) for mood, start in zip(GROUPS, _starts, strict=True)
}
"""First index and number of the texts of each mood."""

MOODS: dict[str, dict[str, float]] = {
    "comment": {"praise": 0.72, "question": 0.15, "negative": 0.07, "help": 0.04, "cooperation": 0.02},
    "live_comment": {"live": 0.7, "praise": 0.14, "question": 0.1, "negative": 0.04, "help": 0.02},
    "group_message": {"group": 0.74, "question": 0.12, "praise": 0.05, "help": 0.06, "negative": 0.03},
    "dm_sent": {"help": 0.35, "question": 0.3, "cooperation": 0.17, "negative": 0.1, "praise": 0.08},
}
"""Shares of moods by kind of event."""
